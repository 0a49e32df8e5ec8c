"""Attribution methods, under Captum's names."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm_attr.attr import visualization
from llm_attr.attr.ablation import (
    FeatureAblation,
    GroupAblation,
    LayerFeatureAblation,
    NeuronFeatureAblation,
    Occlusion,
)
from llm_attr.attr.activation import LayerActivation
from llm_attr.attr.banzhaf import Banzhaf
from llm_attr.attr.base import (
    Attribution,
    GradientAttribution,
    InternalAttribution,
    LayerAttribution,
    NeuronAttribution,
)
from llm_attr.attr.baselines import embedding_baseline
from llm_attr.attr.conductance import InternalInfluence, LayerConductance, NeuronConductance
from llm_attr.attr.context_cite import ContextCite
from llm_attr.attr.data_loader import DataLoaderAttribution
from llm_attr.attr.deep_lift import DeepLift, DeepLiftShap
from llm_attr.attr.deep_lift_internal import LayerDeepLift, LayerDeepLiftShap, NeuronDeepLift, NeuronDeepLiftShap
from llm_attr.attr.embedding import (
    InterpretableEmbeddingBase,
    TokenReferenceBase,
    configure_interpretable_embedding_layer,
    remove_interpretable_embedding_layer,
)
from llm_attr.attr.grad_cam import LayerGradCam
from llm_attr.attr.gradient import InputXGradient, LayerGradientXActivation, NeuronGradient, Saliency
from llm_attr.attr.gradient_shap import GradientShap, LayerGradientShap, NeuronGradientShap
from llm_attr.attr.guided import (
    Deconvolution,
    GuidedBackprop,
    GuidedGradCam,
    NeuronDeconvolution,
    NeuronGuidedBackprop,
)
from llm_attr.attr.integrated import IntegratedGradients, LayerIntegratedGradients, NeuronIntegratedGradients
from llm_attr.attr.interactions import PairwiseInteractions
from llm_attr.attr.kernel_shap import KernelShap, OddShap
from llm_attr.attr.lime import Lime, get_exp_kernel_similarity_function
from llm_attr.attr.lime_base import LimeBase
from llm_attr.attr.linear_models import (
    Model,
    SGDLasso,
    SGDLinearRegression,
    SGDRidge,
    SkLearnLasso,
    SkLearnLinearModel,
    SkLearnLinearRegression,
    SkLearnRidge,
)
from llm_attr.attr.lrp import LRP, LayerLRP
from llm_attr.attr.lrp_rules import (
    Alpha1_Beta0_Rule,
    EpsilonRule,
    FlatRule,
    GammaRule,
    IdentityRule,
    PropagationRule,
    WSquareRule,
    ZPlusRule,
)
from llm_attr.attr.model_input import ModelInputWrapper
from llm_attr.attr.noise_tunnel import SUPPORTED_NOISE_TUNNEL_TYPES, NoiseTunnel
from llm_attr.attr.permutation import FeaturePermutation, LayerFeaturePermutation
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.attr.shapley import LocalShapley, Owen, PermutationShapley, ShapleyValues, ShapleyValueSampling
from llm_attr.attr.statistics import (
    MSE,
    CommonStats,
    Count,
    Max,
    Mean,
    Min,
    Stat,
    StatValue,
    StdDev,
    Sum,
    SummarizerSingleTensor,
    Var,
)
from llm_attr.attr.summarizer import ClassSummarizer, Summarizer
from llm_attr.attr.token_paths import DiscretizedIntegratedGradients, SequentialIntegratedGradients
from llm_attr.core.game.data_game import InputRole
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.path.integral import PathInfo
from llm_attr.core.site import Site

if TYPE_CHECKING:
    from llm_attr.llm.attribution import LLMAttribution
    from llm_attr.llm.engines.provider import RemoteLLMProvider, VLLMProvider
    from llm_attr.llm.gradient import LLMGradientAttribution
    from llm_attr.llm.prompt.interpretable import (
        InterpretableInput,
        ProductBaselines,
        TextTemplateInput,
        TextTokenInput,
    )
    from llm_attr.llm.remote_attribution import RemoteLLMAttribution
    from llm_attr.llm.results.result import LLMAttributionResult

_FROM_LLM = {
    "InterpretableInput": "prompt.interpretable",
    "LLMAttribution": "attribution",
    "LLMGradientAttribution": "gradient",
    "LLMAttributionResult": "results.result",
    "ProductBaselines": "prompt.interpretable",
    "RemoteLLMAttribution": "remote_attribution",
    "RemoteLLMProvider": "engines.provider",
    "TextTemplateInput": "prompt.interpretable",
    "TextTokenInput": "prompt.interpretable",
    "VLLMProvider": "engines.provider",
}

__all__ = [
    "LRP",
    "MSE",
    "SUPPORTED_NOISE_TUNNEL_TYPES",
    "Alpha1_Beta0_Rule",
    "Attribution",
    "Banzhaf",
    "ClassSummarizer",
    "CommonStats",
    "ContextCite",
    "Count",
    "DataLoaderAttribution",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "DiscretizedIntegratedGradients",
    "EpsilonRule",
    "FeatureAblation",
    "FeaturePermutation",
    "FlatRule",
    "GammaRule",
    "GradientAttribution",
    "GradientShap",
    "GroupAblation",
    "GuidedBackprop",
    "GuidedGradCam",
    "IdentityRule",
    "InputRole",
    "InputXGradient",
    "IntegratedGradients",
    "InternalAttribution",
    "InternalInfluence",
    "InterpretableEmbeddingBase",
    "InterpretableInput",
    "KernelShap",
    "LLMAttribution",
    "LLMAttributionResult",
    "LLMGradientAttribution",
    "LayerActivation",
    "LayerAttribution",
    "LayerConductance",
    "LayerDeepLift",
    "LayerDeepLiftShap",
    "LayerFeatureAblation",
    "LayerFeaturePermutation",
    "LayerGradCam",
    "LayerGradientShap",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "LayerLRP",
    "Ledger",
    "Lime",
    "LimeBase",
    "LocalShapley",
    "Max",
    "Mean",
    "Min",
    "Model",
    "ModelInputWrapper",
    "NeuronAttribution",
    "NeuronConductance",
    "NeuronDeconvolution",
    "NeuronDeepLift",
    "NeuronDeepLiftShap",
    "NeuronFeatureAblation",
    "NeuronGradient",
    "NeuronGradientShap",
    "NeuronGuidedBackprop",
    "NeuronIntegratedGradients",
    "NoiseTunnel",
    "Occlusion",
    "OddShap",
    "Owen",
    "PairwiseInteractions",
    "PathInfo",
    "PermutationShapley",
    "PerturbationAttribution",
    "ProductBaselines",
    "PropagationRule",
    "RemoteLLMAttribution",
    "RemoteLLMProvider",
    "SGDLasso",
    "SGDLinearRegression",
    "SGDRidge",
    "Saliency",
    "SequentialIntegratedGradients",
    "ShapleyValueSampling",
    "ShapleyValues",
    "Site",
    "SkLearnLasso",
    "SkLearnLinearModel",
    "SkLearnLinearRegression",
    "SkLearnRidge",
    "Stat",
    "StatValue",
    "StdDev",
    "Sum",
    "Summarizer",
    "SummarizerSingleTensor",
    "TextTemplateInput",
    "TextTokenInput",
    "TokenReferenceBase",
    "VLLMProvider",
    "Var",
    "WSquareRule",
    "ZPlusRule",
    "configure_interpretable_embedding_layer",
    "embedding_baseline",
    "get_exp_kernel_similarity_function",
    "remove_interpretable_embedding_layer",
    "visualization",
]


def __getattr__(name: str) -> Any:
    if name not in _FROM_LLM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llm_attr.llm.{_FROM_LLM[name]}"), name)


def __dir__() -> list[str]:
    return __all__
