"""Which training examples stand behind what a model does, under Captum's names."""

from llm_attr.core.pairing.checkpoints import load_flexible_state_dict
from llm_attr.core.pairing.ranking import KMostInfluentialResults
from llm_attr.influence.base import DataInfluence, GradientInfluence
from llm_attr.influence.hessian import (
    ArnoldiInfluenceFunction,
    InfluenceFunctionBase,
    IntermediateQuantitiesInfluenceFunction,
    NaiveInfluenceFunction,
)
from llm_attr.influence.nearest_neighbors import (
    AnnoyNearestNeighbors,
    ExactNearestNeighbors,
    FaissNearestNeighbors,
    NearestNeighbors,
)
from llm_attr.influence.similarity import SimilarityInfluence, cosine_similarity, euclidean_distance
from llm_attr.influence.tracin import TracInCP, TracInCPBase
from llm_attr.influence.tracin_fast import FinalLayerInfluence, TracInCPFast, TracInCPFastRandProj

__all__ = [
    "AnnoyNearestNeighbors",
    "ArnoldiInfluenceFunction",
    "DataInfluence",
    "ExactNearestNeighbors",
    "FaissNearestNeighbors",
    "FinalLayerInfluence",
    "GradientInfluence",
    "InfluenceFunctionBase",
    "IntermediateQuantitiesInfluenceFunction",
    "KMostInfluentialResults",
    "NaiveInfluenceFunction",
    "NearestNeighbors",
    "SimilarityInfluence",
    "TracInCP",
    "TracInCPBase",
    "TracInCPFast",
    "TracInCPFastRandProj",
    "cosine_similarity",
    "euclidean_distance",
    "load_flexible_state_dict",
]
