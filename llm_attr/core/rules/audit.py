"""Finds operations that no rule covers, in the autograd graph of an output."""

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
"""Nodes that are linear in what depends on the input, or copy it."""

_PRODUCTS = """
    Mul Div Mm Bmm Addmm Addbmm Baddbmm Addmv Addr Mv Dot Vdot Matmul Linear MkldnnLinear Convolution
    ConvolutionOverrideable MkldnnConvolution CudnnConvolution CudnnConvolutionTranspose MiopenConvolution
    MpsConvolution SlowConv2D SlowConv3D SlowConvDilated2D SlowConvDilated3D SlowConvTranspose2D
    SlowConvTranspose3D ConvDepthwise2D ConvDepthwise3D ConvTbc NnpackSpatialConvolution Trilinear GroupedMm
    LinalgCross GridSampler2D
"""

PRODUCTS = frozenset(_PRODUCTS.split())
"""Nodes that are linear if only one of their factors depends on the input."""

_ROUTING = """
    MaxPool2D MaxPool2DWithIndices MaxPool3DWithIndices MkldnnMaxPool2D MkldnnMaxPool3D AdaptiveMaxPool2D
    AdaptiveMaxPool3D FractionalMaxPool2D FractionalMaxPool3D MaxUnpool2D MaxUnpool3D Max Min Amax Amin Maximum
    Minimum Fmax Fmin Topk Sort Kthvalue Median Nanmedian Mode Cummax Cummin
"""

ROUTING = frozenset(_ROUTING.split())
"""Nodes that pass on selected entries."""


@dataclass(frozen=True)
class Audit:
    """Which nodes of an autograd graph may keep their native gradient.

    Attributes:
        native: The nodes that may; None: all except the refused.
        refused: The nodes that may not; takes precedence.
    """

    native: frozenset[str] | None
    refused: frozenset[str] = frozenset({"CheckpointFunction"})

    def check(self, answer: Tensor, ours: Mapping[int, Tensor]) -> None:
        """Checks every node of the graph of an output.

        A custom Function that is linear in what depends on the input must have the class attribute
        `linear_in_input = True`.

        Args:
            answer: The output, with its graph.
            ours: The tensors it is differentiated with respect to, by id; the graph may have no other leaves.

        Raises:
            NoRule: an operation has no rule, or a tensor other than the input requires gradients.
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
    """Marks the nodes between `ends` and the result as covered by a rule."""
    ahead = [result.grad_fn] if isinstance(result, Tensor) else []
    while ahead:
        node: Any = ahead.pop()
        if node is not None and node not in ends and _COVERED not in node.metadata:
            node.metadata[_COVERED] = True
            ahead += [parent for parent, _ in node.next_functions]


_CUSTOM = (
    "; if a custom Function among them is linear in what depends on the input, set TheFunction.linear_in_input = "
    "True; if it is elementwise, call it in an nn.Module of its own, without parameters"
)


def _is_linear(node: BackwardCFunction) -> bool:
    """Whether the custom Function of a node is declared linear."""
    return getattr(getattr(node, "_forward_cls", None), "linear_in_input", False) is True


@cache
def _kind(name: str) -> str:
    """`MulBackward0` -> `Mul`."""
    return re.sub(r"Backward\d*$", "", name.split("::")[-1])


def _message(missed: Counter[str]) -> str:
    names = ", ".join(f"{name} ({count})" for name, count in missed.most_common())
    reason = "the model has operations that no rule covers, or that run where rules cannot see them"
    if any("Checkpoint" in name for name in missed):
        reason = "the model recomputes activations in the backward pass; switch gradient checkpointing off"
    elif any("Rnn" in name or "Lstm" in name or "Gru" in name for name in missed):
        reason = "recurrent kernels run where rules cannot see them"
    return f"{reason}: {names}"
