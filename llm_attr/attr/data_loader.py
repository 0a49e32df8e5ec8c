"""Attribution of a metric of a data set, read from a data loader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from llm_attr.attr.base import Attribution
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.data_game import DataGame, DataMetric, Reduce, ToMetric
from llm_attr.core.game.driver import Estimator, estimated, play
from llm_attr.core.game.features import Features
from llm_attr.core.tensors import as_baselines
from llm_attr.errors import InvalidShape, UnknownKeyword, UnsupportedMethod, positive
from llm_attr.typing import Baselines, TensorOrTensors, Tensors, Values


class DataLoaderAttribution(Attribution):
    """Explains a metric of an entire data set, which is read batch by batch and never held in memory.

    `attribution_i = m(data) - m(data with feature i at its baseline in every example)` for `FeatureAblation`, and
    likewise for every method that removes features; windows of `Occlusion` cover consecutive features.

    All passes over the data start from the same state of torch's random generators (and the loader's generator), which
    is restored at the end: a shuffling loader yields the same batches in each pass.

    Args:
        attr_method: The method, such as `FeatureAblation(model)`.

    Raises:
        UnsupportedMethod: the method does not set features to a baseline.

    Source: A. Fisher, C. Rudin and F. Dominici, All Models are Wrong, but Many are Useful, JMLR 2019, section 3 (the
    loss of a measure over all examples without a variable).

    Example:
        >>> import torch
        >>> from llm_attr.attr import DataLoaderAttribution, FeatureAblation
        >>> batches = [(torch.tensor([[1.0, 2.0]]),), (torch.tensor([[3.0, 4.0]]),)]
        >>> over_data = DataLoaderAttribution(FeatureAblation(lambda x: x.sum(1)))
        >>> over_data.attribute(batches, to_metric=lambda outputs: outputs.mean())
        (tensor([[2., 3.]]),)
    """

    def __init__(self, attr_method: Attribution) -> None:
        if not isinstance(attr_method, PerturbationAttribution) or not attr_method.plays_any_game():
            raise UnsupportedMethod(
                f"DataLoaderAttribution does not support {type(attr_method).__name__}; it takes methods that set "
                "features to a baseline, such as FeatureAblation"
            )
        super().__init__(attr_method.forward_func)
        self.attr_method = attr_method

    def attribute(
        self,
        dataloader: Iterable[Any],
        input_roles: Sequence[int] | None = None,
        baselines: Baselines = None,
        feature_mask: TensorOrTensors | None = None,
        reduce: Reduce | None = None,
        to_metric: ToMetric | None = None,
        perturbations_per_pass: int = 1,
        show_progress: bool = False,
        return_input_shape: bool = True,
        **options: Any,
    ) -> Any:
        """The attribution of the metric to each feature.

        Args:
            dataloader: Yields a tensor, or a tuple or list of fixed length; iterated anew in each pass.
            input_roles: An `InputRole` for each element; None: all are attributed.
            baselines: The absent state of the attributed elements, one row or a number each, see `Attribution`.
            feature_mask: See `PerturbationAttribution`; one row for each attributed element.
            reduce: `(accum, current_output, current_inputs) -> accum`: adds a batch to the accumulator, which starts as
                None. The inputs are all elements, with features absent as the model sees them. None: concatenates the
                outputs.
            to_metric: Maps the final accumulator to the tensor to explain; None: the accumulator itself.
            perturbations_per_pass: Coalitions per pass over the data; each has its own accumulator.
            show_progress: See `Attribution`.
            return_input_shape: False: the result has one column per feature.
            **options: Options of the method, such as `n_samples` and `seed`.

        Returns:
            `(entries of the metric, *features)` for each attributed element, in a tuple if the loader yields tuples or
            lists; or `(entries of the metric, features)`, with a column for each number from 0 to the largest in
            feature_mask. In units of the metric.

        Raises:
            InvalidShape: baselines, masks, roles or batches do not match, or the metric changes its shape.
            InvalidType: the loader is a one-time iterator, or the metric is not a tensor.
            InvalidValue: the loader is empty, a role is unknown or no element is attributed.
            UnknownKeyword: the method does not take one of the options.
        """
        estimator = self._estimator(options)
        chunk = positive("perturbations_per_pass", perturbations_per_pass)
        metric = DataMetric(self.forward_func, dataloader, input_roles, reduce, to_metric)
        first = metric.first()
        features, absent = _shared(feature_mask, baselines, first.moved)
        name, total = f"{self.attr_method.get_name()} attribution", estimator.evaluations(features.count)
        with Evaluator(name, total, show_progress=show_progress, device=first.moved[0].device) as evaluator:
            played = play(DataGame(metric, features, absent, evaluator, chunk), estimator, features.count)
        values = estimated(estimator.estimate, played.coalitions, played.values).values
        if not return_input_shape:
            return _columns(values, feature_mask)
        spread = features.spread(values)
        return spread[0] if first.single else spread

    def _estimator(self, options: Mapping[str, Any]) -> Estimator:
        make = self.attr_method.estimator
        if unknown := set(options) - set(signature(make).parameters):
            where = f"DataLoaderAttribution with {self.attr_method.get_name()}"
            raise UnknownKeyword(where, unknown, signature(make).parameters)
        return make(**{**self.attr_method.estimator_options, **options})


def _shared(mask: TensorOrTensors | None, baselines: Baselines, inputs: Tensors) -> tuple[Features, Tensors]:
    """The features and the absent state, shared by all batches.

    Raises:
        InvalidShape: one of them differs between the examples of the first batch.
    """
    features, absent = Features.of(mask, inputs), as_baselines(baselines, inputs)
    for name, rows in (("feature_mask", features.owner), ("baselines", absent)):
        if any(len(tensor) > 1 for tensor in rows):
            raise InvalidShape(
                f"{name} must be the same for all examples of the data, one row for each input; got the shapes "
                f"{[tuple(tensor.shape) for tensor in rows]}"
            )
    return features, absent


def _columns(values: Values, mask: TensorOrTensors | None) -> Tensor:
    """`(features, entries) -> (entries, numbers)`, one column per number of the mask; unused numbers get 0."""
    if mask is None:
        return values.T
    masks = mask if isinstance(mask, tuple) else (mask,)
    numbers = torch.cat([one.flatten() for one in masks]).long().unique().to(values.device)
    first = min(0, int(numbers[0]))
    columns = values.new_zeros(values.shape[1], int(numbers[-1]) + 1 - first)
    columns[:, numbers - first] = values.T
    return columns
