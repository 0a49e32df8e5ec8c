"""Feature permutation: how much the output falls when a feature is shuffled among the examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.attr.base import LayerAttribution
from llm_attr.attr.forms import keeps_form
from llm_attr.attr.perturbation import FeatureGame, PerturbationAttribution
from llm_attr.core.estimators.leave_one_out import LeaveOneOut
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.problem import Problem
from llm_attr.core.random_state import generator
from llm_attr.core.registry import registered
from llm_attr.errors import InvalidShape, InvalidType
from llm_attr.typing import ForwardFunction, Target, TensorOrTensors

PermFunc: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`(x, feature_mask) -> x`, shuffled where the bool mask `(1 or batch, *features)` is True."""


@registered
class FeaturePermutation(PerturbationAttribution):
    """Shuffles each feature among the examples of the batch and reports how much the output falls.

    `attribution_i = f(x) - f(x with feature i of another example)`

    Where a feature spans several inputs, each of them is shuffled separately. Needs a batch: a single example, and so a
    prompt, is refused.

    Args:
        perm_func: `(x, feature_mask) -> x`, called once per feature and input that contains it; only the positions
            where the mask is True are used. None: a random order of the examples that is not the identity.

    Source: L. Breiman, Random Forests, Machine Learning 2001, section 10.

    Example:
        >>> import torch
        >>> from llm_attr.attr import FeaturePermutation
        >>> FeaturePermutation(lambda x: x.sum(1)).attribute(torch.tensor([[1.0, 5.0], [2.0, 5.0]]))
        tensor([[-1.,  0.],
                [ 1.,  0.]])
    """

    keeps_output_axes = False

    def __init__(self, forward_func: ForwardFunction, perm_func: PermFunc | None = None) -> None:
        super().__init__(forward_func)
        self.perm_func = perm_func

    @keeps_form
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
        """The decrease of the output for each feature.

        Shared arguments: see `PerturbationAttribution`.

        Args:
            inputs: See `Attribution`; at least two examples.
            seed: Seed of the shuffles; None: torch's global generator, as in Captum. Not used by a `perm_func`.
            ledger: See `PerturbationAttribution`; for a single seed.

        Returns:
            As for `FeatureAblation`, in units of the output.

        Raises:
            InvalidShape: there is only one example, feature_mask does not fit the inputs, or perm_func changed a shape.
            InvalidTarget: the target does not fit the output.
        """
        game = self._shuffled(inputs, target, additional_forward_args, feature_mask, seed)
        return game.attributions(LeaveOneOut(), perturbations_per_eval, show_progress, ledger=ledger)

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
        """The promise of `attribute`'s result, for a forward function that returns a `torch.futures.Future`."""
        game = self._shuffled(inputs, target, additional_forward_args, feature_mask, seed)
        return game.promise(LeaveOneOut(), perturbations_per_eval, show_progress)

    def _shuffled(
        self, inputs: TensorOrTensors, target: Target, more: Any, mask: TensorOrTensors | None, seed: int | None
    ) -> FeatureGame:
        problem = Problem.of(self.forward_func, inputs, None, target, more, alike=False)
        return _shuffled_game(self, problem, mask, self.perm_func or _random_orders(seed))


@registered
class LayerFeaturePermutation(LayerAttribution, PerturbationAttribution):
    """Shuffles each neuron of a layer's output among the examples and reports how much the output falls.

    `attribution_j = f(u) - f(u with neuron j of another example)`, with the activations u of the layer

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

    attributor = FeaturePermutation
    """The method applied at the layer."""

    keeps_output_axes = False

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
        """The decrease of the output for each neuron of the layer.

        Shared arguments: see `PerturbationAttribution`.

        Args:
            inputs: See `Attribution`; at least two examples.
            layer_mask: Like `feature_mask`, for the layer's tensors.
            seed: As for `FeaturePermutation.attribute`.

        Returns:
            As for `LayerAttribution`, in units of the output; as for `FeatureAblation` if the model does not have one
            output per example.

        Raises:
            InvalidShape: there is only one example, or layer_mask does not fit the layer.
            InvalidType: the layer's tensors are not floating-point.
        """
        of_inputs = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        problem = of_inputs.cut_at(self._sites(), 0)
        game = _shuffled_game(self, problem, layer_mask, _random_orders(seed), "layer_mask")
        return game.attributions(LeaveOneOut(), perturbations_per_eval, show_progress)


def _random_orders(seed: int | None) -> PermFunc:
    """Shuffles by random orders of the examples other than the identity."""
    draws = generator(seed)

    def shuffle(x: Tensor, mask: Tensor) -> Tensor:
        order = identity = torch.arange(len(x), device="cpu")
        while len(x) and torch.equal(order, identity):
            order = torch.randperm(len(x), generator=draws, device="cpu")
        return torch.where(mask, x[order.to(x.device)], x)

    return shuffle


@torch.no_grad()
def _shuffled_game(
    method: PerturbationAttribution,
    problem: Problem,
    mask: TensorOrTensors | None,
    perm_func: PermFunc,
    name: str = "feature_mask",
) -> FeatureGame:
    """The game in which the absent state of each feature is its shuffled one.

    Shuffles the features of the first input first, then those found only in later inputs.

    Raises:
        InvalidShape: there is only one example, or perm_func changed a shape.
        InvalidType: perm_func did not give a tensor.
    """
    features = Features.of(mask, problem.inputs, name)
    if any(len(x) == 1 for x in problem.inputs):
        raise InvalidShape(
            "shuffling a feature among the examples needs at least 2 of them; got the shapes "
            f"{[tuple(x.shape) for x in problem.inputs]}; FeatureAblation explains a single example"
        )
    absent = [x.clone() for x in problem.inputs]
    for feature in dict.fromkeys(feature for owner in features.owner for feature in owner.unique().tolist()):
        for i, (x, owner) in enumerate(zip(problem.inputs, features.owner, strict=True)):
            mask_of_input = (owner == feature).to(x.device)
            if mask_of_input.any():
                absent[i] = torch.where(mask_of_input, _checked(perm_func(x, mask_of_input), x), absent[i])
    return FeatureGame(method, replace(problem, baselines=tuple(absent)), features)


def _checked(shuffled: Any, x: Tensor) -> Tensor:
    if not isinstance(shuffled, Tensor):
        raise InvalidType(f"perm_func must give a tensor; got {type(shuffled).__name__}")
    if shuffled.shape != x.shape:
        raise InvalidShape(f"perm_func must keep the shape {tuple(x.shape)} of its input; got {tuple(shuffled.shape)}")
    return shuffled
