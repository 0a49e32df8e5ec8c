"""What the rules did not see: a walk through the autograd graph of an answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from llm_attr.errors import NoRule

_COVERED = "llm_attr_rule"

_LINEAR = """
    Add Sub Rsub Neg Sum Mean Nansum Cumsum Trace View UnsafeView ReshapeAlias ReshapeCopy Expand Transpose T
    Permute Unsqueeze Squeeze Slice SliceInverse Select Diagonal Index UnsafeIndex UnsafeMaskedIndex IndexSelect
    IndexAdd IndexCopy IndexFill IndexPut IndexPutImpl UnsafeIndexPut Gather Take Put Scatter ScatterAdd
    MaskedFill MaskedScatter MaskedSelect Where Cat Stack BlockDiag Split SplitWithSizes UnsafeSplit
    UnsafeSplitWithSizes Chunk Unbind Clone LazyClone CopyBackwards Copy CopySlices ToCopy Alias AsStrided
    AsStridedScatter DiagonalScatter SelectScatter SliceScatter Lift LiftFresh NarrowCopy Roll Rot90 Flip Repeat
    Unfold Im2Col Col2Im PixelShuffle PixelUnshuffle ChannelShuffle ConstantPadNd ReflectionPad1D
    ReflectionPad2D ReflectionPad3D ReplicationPad1D ReplicationPad2D ReplicationPad3D Triu Tril DiagEmbed Real
    Imag ViewAsReal ViewAsComplex Complex Conj FftC2C FftC2R FftR2C Embedding EmbeddingBag Fill Zero NanToNum
    PinMemory NormalizeExpand AvgPool2D AvgPool3D AdaptiveAvgPool2D AdaptiveAvgPool3D MkldnnAdaptiveAvgPool2D
    UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D UpsampleNearestExact1D UpsampleNearestExact2D
    UpsampleNearestExact3D UpsampleLinear1D UpsampleBilinear2D UpsampleBilinear2DAa UpsampleBicubic2D
    UpsampleBicubic2DAa UpsampleTrilinear3D NativeBatchNorm CudnnBatchNorm MiopenBatchNorm BatchNorm
    AccumulateGrad Identity Ruled _Ruled ToDense ToMkldnn MkldnnReshape
"""

LINEAR = frozenset(_LINEAR.split())
"""Nodes that are linear, or copy, in what depends on the input."""

_PRODUCTS = """
    Mul Div Mm Bmm Addmm Addbmm Baddbmm Addmv Addr Mv Dot Vdot Matmul Linear MkldnnLinear Convolution
    ConvolutionOverrideable MkldnnConvolution CudnnConvolution CudnnConvolutionTranspose MiopenConvolution
    MpsConvolution SlowConv2D SlowConv3D SlowConvDilated2D SlowConvDilated3D SlowConvTranspose2D
    SlowConvTranspose3D ConvDepthwise2D ConvDepthwise3D ConvTbc NnpackSpatialConvolution Trilinear GroupedMm
    LinalgCross GridSampler2D
"""

PRODUCTS = frozenset(_PRODUCTS.split())
"""Nodes that are linear as long as only one of their factors depends on the input."""

_ROUTING = """
    MaxPool2D MaxPool2DWithIndices MaxPool3DWithIndices MkldnnMaxPool2D MkldnnMaxPool3D AdaptiveMaxPool2D
    AdaptiveMaxPool3D FractionalMaxPool2D FractionalMaxPool3D MaxUnpool2D MaxUnpool3D Max Min Amax Amin Maximum
    Minimum Fmax Fmin Topk Sort Kthvalue Median Nanmedian Mode Cummax Cummin
"""

ROUTING = frozenset(_ROUTING.split())
"""Nodes that pass on what they choose."""


@dataclass(frozen=True)
class Audit:
    """Which nodes of an autograd graph may be left to their native gradient.

    Attributes:
        native: Those that may; None: all but the refused.
        refused: Those that must not, whatever else may.
    """

    native: frozenset[str] | None
    refused: frozenset[str] = frozenset({"CheckpointFunction"})

    def check(self, answer: Tensor, ours: Mapping[int, Tensor]) -> None:
        """Looks at every node behind an answer.

        A custom Function that is linear in what depends on the input says so by the class attribute
        `linear_in_input = True`.

        Args:
            answer: With its graph.
            ours: What it is differentiated by; nothing else may be at the end of the graph.

        Raises:
            NoRule: an operation that no rule saw, or that depends on something else that needs gradients.
        """
        missed, customs = Counter[str](), 0
        seen, ahead = {answer.grad_fn}, [answer.grad_fn]
        while ahead:
            node: Any = ahead.pop()
            if node is None:
                continue
            parents = [parent for parent, _ in node.next_functions if parent is not None]
            kind = _kind(node.name())
            custom = isinstance(node, BackwardCFunction)
            ahead += [parent for parent in parents if parent not in seen]
            seen.update(parents)
            if kind == "AccumulateGrad" and id(leaf := node.variable) not in ours:
                missed[f"a tensor of shape {tuple(leaf.shape)} that requires gradients and is not the input"] += 1
            known = self._may_be(kind, len(parents)) or (custom and _is_linear(node))
            if not known and _COVERED not in node.metadata:
                missed[node.name()] += 1
                customs += custom
        if missed:
            raise NoRule(_message(missed) + (_CUSTOM if customs else ""))

    def _may_be(self, kind: str, moved: int) -> bool:
        if kind in self.refused:
            return False
        return self.native is None or (kind in self.native and (kind not in PRODUCTS or moved < 2))


def cover(result: Any, ends: set[Any]) -> None:
    """Notes that a rule saw what lies between these nodes and the result."""
    ahead = [result.grad_fn] if isinstance(result, Tensor) else []
    while ahead:
        node: Any = ahead.pop()
        if node is not None and node not in ends and _COVERED not in node.metadata:
            node.metadata[_COVERED] = True
            ahead += [parent for parent, _ in node.next_functions]


_CUSTOM = (
    "; if a custom Function among them is linear in what depends on the input, say so: TheFunction.linear_in_input = "
    "True; if it acts on each entry, call it in an nn.Module of its own, without parameters"
)


def _is_linear(node: BackwardCFunction) -> bool:
    """Whether the custom Function of a node says that it is linear."""
    return getattr(getattr(node, "_forward_cls", None), "linear_in_input", False) is True


@cache
def _kind(name: str) -> str:
    """`MulBackward0` -> `Mul`."""
    return re.sub(r"Backward\d*$", "", name.split("::")[-1])


def _message(missed: Counter[str]) -> str:
    found = ", ".join(f"{name} ({count})" for name, count in missed.most_common())
    reason = "the model has operations that no rule covers, or that run where rules cannot see them"
    if any("Checkpoint" in name for name in missed):
        reason = "the model computes activations again in the backward pass; switch gradient checkpointing off"
    elif any("Rnn" in name or "Lstm" in name or "Gru" in name for name in missed):
        reason = "recurrent kernels run where rules cannot see them"
    return f"{reason}: {found}"
