"""What an attribution is worth: Captum's metrics under their names, and metrics for tensors, images and text."""

from __future__ import annotations

from llm_attr.core.faithfulness.feature_game import CoalitionGame, FeatureGame
from llm_attr.core.faithfulness.input_game import InputGame
from llm_attr.metrics.chance import Chance, chance
from llm_attr.metrics.compared import Agreement, rank_agreement, recovery_at_k, sparseness
from llm_attr.metrics.curves import comprehensiveness, deletion, insertion, mas, rise, sufficiency, top_k_drop
from llm_attr.metrics.infidelity import infidelity, infidelity_perturb_func_decorator
from llm_attr.metrics.randomisation import Randomisation, model_randomisation
from llm_attr.metrics.regression import linear_datamodelling_score, monotonicity
from llm_attr.metrics.score import CurveScore, Score
from llm_attr.metrics.sensitivity import default_perturb_func, sensitivity_max
from llm_attr.metrics.soft import soft_comprehensiveness, soft_sufficiency

__all__ = [
    "Agreement",
    "Chance",
    "CoalitionGame",
    "CurveScore",
    "FeatureGame",
    "InputGame",
    "Randomisation",
    "Score",
    "chance",
    "comprehensiveness",
    "default_perturb_func",
    "deletion",
    "infidelity",
    "infidelity_perturb_func_decorator",
    "insertion",
    "linear_datamodelling_score",
    "mas",
    "model_randomisation",
    "monotonicity",
    "rank_agreement",
    "recovery_at_k",
    "rise",
    "sensitivity_max",
    "soft_comprehensiveness",
    "soft_sufficiency",
    "sparseness",
    "sufficiency",
    "top_k_drop",
]
