"""What an output has to do with concepts that people have, under Captum's names."""

from llm_attr.concept.activation_store import AV
from llm_attr.concept.cav import CAV
from llm_attr.concept.classifier import Classifier, DefaultClassifier, ProbeClassifier
from llm_attr.concept.concept import Concept, ConceptInterpreter, concepts_to_str
from llm_attr.concept.data import CustomIterableDataset, LabelledDataset, dataset_to_dataloader
from llm_attr.concept.significance import ConceptSignificance
from llm_attr.concept.tcav import TCAV
from llm_attr.concept.training import train_cav

__all__ = [
    "AV",
    "CAV",
    "TCAV",
    "Classifier",
    "Concept",
    "ConceptInterpreter",
    "ConceptSignificance",
    "CustomIterableDataset",
    "DefaultClassifier",
    "LabelledDataset",
    "ProbeClassifier",
    "concepts_to_str",
    "dataset_to_dataloader",
    "train_cav",
]
