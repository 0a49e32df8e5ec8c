"""LIME in its general form, with every part supplied by the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.attr.lime import PerturbFunction, SimilarityFunction, drawn
from llm_attr.attr.linear_models import Model
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.surrogate import loader
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.problem import Problem
from llm_attr.core.tensors import as_tensors
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, positive
from llm_attr.typing import ForwardFunction, Target, TensorOrTensors

Transform: TypeAlias = Callable[..., Any]
"""`(sample, original_input, **kwargs) -> sample` in the other space."""


class LimeBase(PerturbationAttribution):
    """Fits an interpretable model to the outputs for samples around an input and returns its representation.

    Samples are drawn as inputs or as interpretable vectors `(1, features)`, and converted by the transforms. All
    functions receive the further keywords of `attribute`.

    Args:
        forward_func: See `Attribution`. For a batch it must return one number.
        interpretable_model: An object with `representation` and with `fit`, which takes a DataLoader of (rows, values,
            weights).
        similarity_func: `(original_input, perturbed_input, perturbed_interpretable_input, **kwargs) -> weight`.
        perturb_func: `(original_input, **kwargs)` returns a sample, or a generator of samples.
        perturb_interpretable_space: Whether samples are drawn as interpretable vectors.
        from_interp_rep_transform: `(sample, original_input, **kwargs) -> input`; required for interpretable vectors.
        to_interp_rep_transform: `(sample, original_input, **kwargs) -> interpretable vector`; required for inputs.

    Raises:
        InvalidType: the required transform is None.

    Source: M. T. Ribeiro, S. Singh and C. Guestrin, "Why Should I Trust You?", KDD 2016, section 3.
    """

    def __init__(
        self,
        forward_func: ForwardFunction,
        interpretable_model: Model,
        similarity_func: SimilarityFunction,
        perturb_func: PerturbFunction,
        perturb_interpretable_space: bool,
        from_interp_rep_transform: Transform | None,
        to_interp_rep_transform: Transform | None,
    ) -> None:
        super().__init__(forward_func)
        self.interpretable_model, self.similarity_func = interpretable_model, similarity_func
        self.perturb_func, self.perturb_interpretable_space = perturb_func, perturb_interpretable_space
        self.from_interp_rep_transform = from_interp_rep_transform
        self.to_interp_rep_transform = to_interp_rep_transform
        name = "from_interp_rep_transform" if perturb_interpretable_space else "to_interp_rep_transform"
        self._transform: Transform | None = getattr(self, name)
        if self._transform is None:
            raise InvalidType(f"{name} is needed with perturb_interpretable_space={perturb_interpretable_space}")

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        n_samples: int = 50,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The representation of the interpretable model.

        Shared arguments: see `Attribution`.

        Args:
            n_samples: Number of samples; fewer if a generator ends earlier.
            perturbations_per_eval: Samples per call; 1 if the forward function returns one number per batch.
            **kwargs: Passed on to the functions.

        Raises:
            InvalidShape: the forward function does not return one number per sample.
        """
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        samples = list(islice(self._samples(inputs, kwargs), positive("n_samples", n_samples)))
        if not samples:
            raise InvalidValue("perturb_func gave no samples")
        perturbed, rows = zip(*samples, strict=True)
        per_call = positive("perturbations_per_eval", perturbations_per_eval)
        outputs = self._outputs(problem, perturbed, per_call, show_progress)
        weights = [float(self.similarity_func(inputs, sample, row, **kwargs)) for sample, row in samples]
        design = torch.cat([row.reshape(1, -1) for row in rows]).to(outputs)
        weighted = torch.tensor(weights, dtype=torch.float64, device="cpu").to(outputs)
        self.interpretable_model.fit(loader(design, outputs, weighted))
        return self.interpretable_model.representation()

    def _outputs(
        self, problem: Problem, samples: Sequence[TensorOrTensors], per_call: int, show_progress: bool
    ) -> Tensor:
        """`(samples,)`: the values of the forward function."""

        def evaluate(start: int, stop: int) -> Tensor:
            values = _values(problem, samples[start:stop])
            evaluator.advance(stop - start)
            return values

        name, device = f"{self.get_name()} attribution", problem.inputs[0].device
        with Evaluator(name, len(samples), show_progress=show_progress, device=device) as evaluator:
            return torch.cat(list(evaluator.share_out(len(samples), per_call, evaluate)))

    def _samples(self, inputs: TensorOrTensors, kwargs: dict[str, Any]) -> Iterator[tuple[TensorOrTensors, Tensor]]:
        """Samples as inputs and as interpretable vectors."""
        transform: Any = self._transform
        for sample in drawn(self.perturb_func, inputs, kwargs, Tensor | tuple):
            other = transform(sample, inputs, **kwargs)
            yield (other, sample) if self.perturb_interpretable_space else (sample, other)


def _values(problem: Problem, samples: Sequence[TensorOrTensors]) -> Tensor:
    """`(samples,)`: one number per sample."""
    points = tuple(torch.cat(parts) for parts in zip(*map(as_tensors, samples), strict=True))
    answer = problem.values(points, len(samples))
    if not isinstance(answer, Tensor) or answer.numel() != len(samples):
        given = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise InvalidShape(
            f"the forward function must give one number for each of {len(samples)} samples; got {given}. For a batch "
            "it must give one number, with perturbations_per_eval=1; or explain the examples one at a time, or use Lime"
        )
    return answer.reshape(-1).float() if not answer.is_floating_point() else answer.reshape(-1)
