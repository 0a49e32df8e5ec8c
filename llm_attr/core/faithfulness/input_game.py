"""The features of input tensors as a game: each example is judged by coalitions of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.faithfulness.feature_game import FeatureGame, Spent, as_rows
from llm_attr.core.faithfulness.perturbed import check_shapes
from llm_attr.core.game.driver import finite
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.tensor_game import TensorGame
from llm_attr.core.problem import Problem
from llm_attr.errors import InvalidShape, InvalidType, NonFiniteValue
from llm_attr.typing import Baselines, Coalitions, ForwardFunction, Target, TensorOrTensors, Tensors, Values


class InputGame(FeatureGame):
    """The output of a model when only some features of its inputs are present; the others are at their baseline.

    Args:
        forward_func: A model, or any callable that maps the inputs and the additional arguments to a tensor.
        inputs: A tensor or tuple of tensors `(batch, *features)`.
        baselines: The reference that stands for absence, as in `Attribution.attribute`.
        feature_mask: Positions with the same whole number form one feature, also across inputs; by default each
            position is one. It may differ between examples.
        target: The output entry, as in `Attribution.attribute`.
        additional_forward_args: Passed on to `forward_func` after the inputs.
        perturbations_per_eval: The most variants of the batch per call. None: as many as fit into memory.

    Raises:
        InvalidShape: baselines, mask or inputs do not fit each other.
        InvalidType: the inputs are not tensors, or the mask does not hold whole numbers.

    Example:
        >>> import torch
        >>> game = InputGame(lambda x: x.sum(1), torch.tensor([[1.0, 2.0]]))
        >>> game.values(torch.tensor([[[True, True], [False, True]]]))
        tensor([[3., 2.]], dtype=torch.float64)
    """

    def __init__(
        self,
        forward_func: ForwardFunction,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        feature_mask: TensorOrTensors | None = None,
        target: Target = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
    ) -> None:
        if not callable(forward_func):
            raise InvalidType(f"forward_func must be a model or a callable; got {type(forward_func).__name__}")
        problem = Problem.of(forward_func, inputs, baselines, target, additional_forward_args)
        self.inputs, self.batch = problem.inputs, problem.batch
        self._grouped = Features.of(feature_mask, problem.inputs)
        own = Features(_apart(self._grouped, problem.batch), self._grouped.count * problem.batch)
        self._game = TensorGame(problem, own, self._evaluator(0), perturbations_per_eval)
        self._ledger = Ledger()
        self._remembered = self._ledger.remembering(finite(self._evaluated))

    @property
    def features(self) -> int:
        """The number of features of an example."""
        return self._grouped.count

    @property
    def spent(self) -> Spent:
        """See `FeatureGame`; an evaluation is that of one coalition for each example of the batch."""
        return Spent(self._ledger.evaluated)

    def rows(self, attributions: Any) -> Tensor:
        """See `FeatureGame`; attributions have the shapes of the inputs, or `(batch, features)`.

        Positions that form a feature have its attribution together: their common value if all positions of each feature
        have the same one, as methods give that take a feature_mask; otherwise their sum.
        """
        if isinstance(attributions, Tensor) and attributions.shape == (self.batch, self.features):
            alone = len(self.inputs) == 1 and attributions.shape == self.inputs[0].shape
            if not alone:
                return as_rows(attributions, self.features)
        tensors = check_shapes("attributions", attributions, self.inputs)
        if any(not torch.isfinite(tensor).all() for tensor in tensors):
            raise NonFiniteValue("attributions hold NaN or infinity, which cannot be ranked")
        return self._pooled(tensors)

    def values(self, coalitions: Coalitions) -> Values:
        """See `FeatureGame`.

        Raises:
            InvalidShape: the model does not give one number per example.
            NonFiniteValue: the model gives NaN or infinity.
        """
        outputs, count, features = coalitions.shape
        if outputs != self.batch:
            raise InvalidShape(f"coalitions must be given for each of the {self.batch} examples; got {outputs}")
        together = coalitions.permute(1, 0, 2).reshape(count, outputs * features)
        return self._remembered(together).T

    def _evaluated(self, coalitions: Coalitions) -> Values:
        with self._evaluator(len(coalitions)) as evaluator:
            self._game.evaluator = evaluator
            values = self._game(coalitions)
        if values.shape[1] != self.batch:
            shape = tuple(self._game.shape or ())
            raise InvalidShape(
                f"a metric needs one output for each of the {self.batch} examples; the model gave {shape}: name a "
                "target, or give one example at a time"
            )
        return values.to("cpu", torch.float64)

    def _evaluator(self, total: int) -> Evaluator:
        return Evaluator("Faithfulness", total, device=self.inputs[0].device)

    def _pooled(self, tensors: Tensors) -> Tensor:
        """`(batch, features)`: the common value of the positions of each feature, or their sum."""
        values, owners = [], []
        for tensor, owner in zip(tensors, self._grouped.owner, strict=True):
            values.append(tensor.detach().to("cpu").double().reshape(self.batch, -1))
            owners.append(owner.expand(self.batch, *owner.shape[1:]).reshape(self.batch, -1))
        flat, owner = torch.cat(values, 1), torch.cat(owners, 1)
        pooled = flat.new_zeros(self.batch, self.features)
        sums = pooled.scatter_add(1, owner, flat)
        highest = pooled.scatter_reduce(1, owner, flat, "amax", include_self=False)
        lowest = pooled.scatter_reduce(1, owner, flat, "amin", include_self=False)
        return highest if torch.equal(highest, lowest) else sums


def _apart(features: Features, batch: int) -> Tensors:
    """The owners of positions when the features of each example are features of their own."""
    first = torch.arange(batch, device="cpu") * features.count
    return tuple(owner + first.view(-1, *(1,) * (owner.dim() - 1)) for owner in features.owner)
