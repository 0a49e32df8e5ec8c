"""Feature permutation: what is lost when a feature is shuffled among the examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from llm_attr.attr.base import LayerAttribution
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.leave_one_out import LeaveOneOut
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.problem import Problem
from llm_attr.core.random_state import generator
from llm_attr.core.registry import registered
from llm_attr.core.site import Site
from llm_attr.errors import InvalidShape, InvalidType
from llm_attr.typing import ForwardFunction, Target, TensorOrTensors

PermFunc: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`(x, feature_mask) -> x` with the positions where the bool mask `(1 or batch, *features)` is True shuffled."""


@registered
class FeaturePermutation(PerturbationAttribution):
    """Shuffles each feature among the examples of the batch and reports how much the output falls.

    `attribution_i = f(x) - f(x with feature i of another example)`

    Where a feature spans several inputs, each of these has a shuffle of its own. A method of batches: it is refused
    for a single example, and so for a prompt.

    Args:
        forward_func: See `Attribution`.
        perm_func: `(x, feature_mask) -> x`, called once for each feature and input that it is in; only the positions
            where the mask is True are looked at. None: a random order of the examples in which not all stay in place.

    Source: L. Breiman, Random Forests, Machine Learning 2001, section 10.

    Example:
        >>> import torch
        >>> from llm_attr.attr import FeaturePermutation
        >>> FeaturePermutation(lambda x: x.sum(1)).attribute(torch.tensor([[1.0, 5.0], [2.0, 5.0]]))
        tensor([[-1.,  0.],
                [ 1.,  0.]])
    """

    def __init__(self, forward_func: ForwardFunction, perm_func: PermFunc | None = None) -> None:
        super().__init__(forward_func)
        self.perm_func = perm_func

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        seed: int | None = None,
        ledger: Ledger | None = None,
    ) -> Any:
        """The loss of output for each feature.

        Args:
            inputs: See `Attribution`; at least two examples.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            seed: Of the shuffles; None: torch's global stream, as in Captum. A `perm_func` draws for itself.
            ledger: See `PerturbationAttribution`; of one seed.

        Returns:
            As for `FeatureAblation`, in units of the output.

        Raises:
            InvalidShape: there is only one example, feature_mask does not fit the inputs, or perm_func changed a shape.
            InvalidTarget: the target does not fit the output.
        """
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args, alike=False)
        features = Features.of(feature_mask, problem.inputs)
        shuffled = _shuffled(problem, features, self.perm_func or _orders(seed))
        playing = self._playing(shuffled, features, LeaveOneOut(), perturbations_per_eval, show_progress, ledger=ledger)
        return playing.answer()

    def attribute_future(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        seed: int | None = None,
    ) -> torch.futures.Future[TensorOrTensors]:
        """The promise of `attribute`'s result, for a forward function that gives a `torch.futures.Future`."""
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args, alike=False)
        features = Features.of(feature_mask, problem.inputs)
        shuffled = _shuffled(problem, features, self.perm_func or _orders(seed))
        playing = self._playing(shuffled, features, LeaveOneOut(), perturbations_per_eval, show_progress)
        return playing.promise().then(lambda done: playing.in_form(done.value().values))


@registered
class LayerFeaturePermutation(LayerAttribution, PerturbationAttribution):
    """Shuffles each neuron of a layer's output among the examples and reports how much the output falls.

    `attribution_j = f(u) - f(u with neuron j of another example)`, with the activations u of the layer

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`.
        device_ids: See `InternalAttribution`.

    Source: L. Breiman, Random Forests, Machine Learning 2001, section 10, at a layer.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerFeaturePermutation
        >>> layer = torch.nn.Identity()
        >>> permutation = LayerFeaturePermutation(lambda x: layer(x).sum(1), layer)
        >>> permutation.attribute(torch.tensor([[1.0, 5.0], [2.0, 5.0]]))
        tensor([[-1.,  0.],
                [ 1.,  0.]])
    """

    def __init__(
        self, forward_func: ForwardFunction, layer: nn.Module | Site, device_ids: list[int] | None = None
    ) -> None:
        super().__init__(forward_func, layer, device_ids)

    @property
    def attributor(self) -> type[FeaturePermutation]:
        """The method that is applied at the layer."""
        return FeaturePermutation

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        layer_mask: TensorOrTensors | None = None,
        perturbations_per_eval: int | None = None,
        *,
        seed: int | None = None,
        show_progress: bool = False,
    ) -> Any:
        """The loss of output for each neuron of the layer.

        Args:
            inputs: See `Attribution`; at least two examples.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            layer_mask: As `feature_mask` of `PerturbationAttribution`, for what passes the layer.
            perturbations_per_eval: See `PerturbationAttribution`.
            seed: As in `FeaturePermutation.attribute`.
            show_progress: See `Attribution`.

        Returns:
            See `LayerAttribution`, in units of the output; for other outputs than one for each example as for
            `FeatureAblation`.

        Raises:
            InvalidShape: there is only one example, or layer_mask does not fit the layer.
            InvalidType: what passes the layer is no tensor of floating point.
        """
        whole = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        problem = whole.cut_at(self._sites(), 0)
        features = Features.of(layer_mask, problem.inputs, "layer_mask")
        shuffled = _shuffled(problem, features, _orders(seed))
        return self._playing(shuffled, features, LeaveOneOut(), perturbations_per_eval, show_progress).answer()


def _orders(seed: int | None) -> PermFunc:
    """Shuffles by random orders of the examples, drawn again while nothing has moved."""
    draws = generator(seed)

    def shuffle(x: Tensor, mask: Tensor) -> Tensor:
        order = stay = torch.arange(len(x), device="cpu")
        while len(x) and torch.equal(order, stay):
            order = torch.randperm(len(x), generator=draws, device="cpu")
        return torch.where(mask, x[order.to(x.device)], x)

    return shuffle


@torch.no_grad()
def _shuffled(problem: Problem, features: Features, perm_func: PermFunc) -> Problem:
    """The problem whose absent state of each feature is its shuffled one.

    The features of the first input are shuffled first, then those that only later inputs have.

    Raises:
        InvalidShape: there is only one example, or perm_func gave another shape.
        InvalidType: perm_func gave no tensor.
    """
    if any(len(x) == 1 for x in problem.inputs):
        raise InvalidShape(
            "shuffling a feature among the examples needs at least 2 of them; got the shapes "
            f"{[tuple(x.shape) for x in problem.inputs]}; FeatureAblation explains a single example"
        )
    absent = [x.clone() for x in problem.inputs]
    in_order = dict.fromkeys(feature for owner in features.owner for feature in owner.unique().tolist())
    for feature in in_order:
        for i, (x, owner) in enumerate(zip(problem.inputs, features.owner, strict=True)):
            mask = (owner == feature).to(x.device)
            if mask.any():
                absent[i] = torch.where(mask, _checked(perm_func(x, mask), x), absent[i])
    return replace(problem, baselines=tuple(absent))


def _checked(shuffled: Any, x: Tensor) -> Tensor:
    if not isinstance(shuffled, Tensor):
        raise InvalidType(f"perm_func must give a tensor; got {type(shuffled).__name__}")
    if shuffled.shape != x.shape:
        raise InvalidShape(f"perm_func must keep the shape {tuple(x.shape)} of its input; got {tuple(shuffled.shape)}")
    return shuffled
