"""The base of all methods that compare outputs with and without features of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch

from llm_attr.attr.base import Attribution
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.driver import Estimator, GameRun, check_finite, design, estimated, play
from llm_attr.core.game.features import Features, Ownership
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.game.tensor_game import TensorGame
from llm_attr.core.problem import Problem
from llm_attr.core.tensors import in_slots, leaves
from llm_attr.errors import InvalidValue
from llm_attr.typing import Baselines, Target, TensorOrTensors, Values


class PerturbationAttribution(Attribution):
    """A method that compares the output with outputs for inputs in which features are absent.

    Shared arguments of `attribute`, besides those of `Attribution`:

    * `feature_mask`: integers that broadcast to the inputs, one mask per input. Positions with the same number, also
      across inputs, form one feature and are absent together. None: each position is a feature.
    * `perturbations_per_eval`: coalitions per call of the model. None: if one call with a doubled batch gives doubled
      and equal outputs, calls are as large as memory allows; otherwise one coalition per call.
    * `ledger`: a `Ledger` that stores the value of every coalition, so that another method (or a larger sample) for the
      same inputs, target and features reuses them; `Ledger(path, name)` keeps them in a file.

    Sampled methods also take:

    * `n_samples`: the sample size; with `until` or `budget` the minimum, as far as the budget allows.
    * `until`: sample until the largest standard error is at most this fraction of the largest attribution of the same
      output (`0.05`), or until the k largest attributions are separated from all others (`"top 3 stable"`). Warns if
      the budget ends the sampling first.
    * `budget`: the maximum number of evaluations (`200`) or time (`"30 s"`). Sampling ends when `until` or `budget` is
      reached.
    * `seed`: seed of the sample. None: torch's global generator; the default where Captum has the method.
    * `return_stderr`: also returns the standard error of each attribution, in the same form. Errors are scaled by
      Student's t: 1.96 of them on each side contain the exact value in about 95 % of cases, from 5 samples on.
    """

    multiplies_by_inputs = True

    keeps_output_axes = True
    """Whether several outputs per example keep their axes, `(*output.shape, *features)`, or share one."""

    estimator: Callable[..., Estimator]
    """Builds the estimator from the method's own options, for tensors and for text.

    Missing where a method cannot explain a single prompt: it perturbs a layer, or needs other examples.
    """

    @property
    def estimator_options(self) -> Mapping[str, Any]:
        """The estimator's options that were set in the constructor."""
        return {}

    @classmethod
    def plays_any_game(cls) -> bool:
        """Whether it also explains other games than those of tensors: a prompt, or a metric of a data set."""
        return hasattr(cls, "estimator")

    def _game(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines,
        target: Target,
        additional_forward_args: Any,
        feature_mask: TensorOrTensors | None,
        alike: bool = True,
    ) -> FeatureGame:
        """The game of the shared arguments; `alike`: all inputs must have the same batch size."""
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args, alike=alike)
        return FeatureGame(self, problem, Features.of(feature_mask, problem.inputs))


@dataclass(frozen=True)
class FeatureGame:
    """A problem whose features may be absent, and the method that explains it.

    Attributes:
        method: The method.
        problem: What is explained.
        features: Which positions are absent together.
    """

    method: PerturbationAttribution
    problem: Problem
    features: Ownership

    def attributions(
        self,
        estimator: Estimator,
        per_call: int | None = None,
        show_progress: bool = False,
        until: float | str | None = None,
        budget: int | str | None = None,
        return_stderr: bool = False,
        ledger: Ledger | None = None,
        return_input_shape: bool = True,
    ) -> Any:
        """The attributions in the form of the inputs, and with `return_stderr` their standard errors.

        Args:
            estimator: The estimator.
            per_call: Coalitions per call of the model.
            show_progress: Whether to show a progress bar.
            until: See `PerturbationAttribution`.
            budget: See `PerturbationAttribution`.
            return_stderr: Whether to return standard errors.
            ledger: Stores the values.
            return_input_shape: False: the result is `(outputs, features)`.
        """
        played, shape = self.play(estimator, per_call, show_progress, until, budget, return_stderr, ledger)
        estimate = estimated(estimator.estimate, played.coalitions, played.values)
        return estimate.mapped(lambda each: self.in_form(each, shape) if return_input_shape else each.T, return_stderr)

    def play(
        self,
        estimator: Estimator,
        per_call: int | None = None,
        show_progress: bool = False,
        until: float | str | None = None,
        budget: int | str | None = None,
        return_stderr: bool = False,
        ledger: Ledger | None = None,
    ) -> tuple[GameRun, torch.Size | None]:
        """Evaluates the estimator's coalitions: their values, and the shape of the output. Arguments: `attributions`.

        Raises:
            InvalidValue: the method has no standard errors, and they are asked for.
        """
        if return_stderr and estimator.fixed:
            raise InvalidValue("return_stderr is for sampled methods; this method evaluates every coalition it needs")
        stopping = Stopping.of(until, budget)
        game = self._tensor_game(estimator, per_call, show_progress, stopping)
        if ledger is not None:
            fingerprint = self._fingerprint()
            ledger.claim(
                (self.problem.forward, fingerprint), fingerprint, self.problem.inputs[0].device, lambda: game.shape
            )
            game.shape = ledger.shape
        with game.evaluator as evaluator:
            played = play(game, estimator, self.features.count, stopping, ledger=ledger)
            evaluator.finish()
        if ledger is not None:
            ledger.shape = game.shape
        return played, game.shape

    def promise(
        self, estimator: Estimator, per_call: int | None, show_progress: bool
    ) -> torch.futures.Future[TensorOrTensors]:
        """The promise of the attributions, for a forward function that returns promises; makes all calls at once."""
        game = self._tensor_game(estimator, per_call, show_progress, Stopping())
        with ExitStack() as stack:
            evaluator = stack.enter_context(game.evaluator)
            rows = torch.cat(list(design(estimator, self.features.count)))
            distinct, index = (rows, slice(None)) if estimator.fixed else rows.unique(dim=0, return_inverse=True)
            promise = game.submit(distinct)
            until_done = stack.pop_all()

        def finish(done: torch.futures.Future[Values]) -> TensorOrTensors:
            with until_done:
                evaluator.check()
                evaluator.finish()
            values = done.value()[index]
            if not estimator.takes_any_value:
                check_finite(rows, values)
            return self.in_form(estimated(estimator.estimate, rows, values).values, game.shape)

        return promise.then(finish)

    def in_form(self, values: Values, shape: torch.Size | None) -> TensorOrTensors:
        """`(features, outputs)` in the form of the inputs, `(outputs, *features)` each.

        Args:
            values: Attributions or their errors.
            shape: The shape of the output.
        """
        spread = self.features.spread(values)
        if self.method.keeps_output_axes and shape is not None and len(shape) > 1:
            spread = tuple(tensor.unflatten(0, shape) for tensor in spread)
        return in_slots(spread, self.problem.slots)[0]

    def _tensor_game(
        self, estimator: Estimator, per_call: int | None, show_progress: bool, stopping: Stopping
    ) -> TensorGame:
        if per_call is not None and per_call < 1:
            raise InvalidValue(f"perturbations_per_eval must be at least 1 or None; got {per_call}")
        evaluator = Evaluator(
            f"{self.method.get_name()} attribution",
            estimator.evaluations(self.features.count, stopping.evaluations),
            show_progress=show_progress,
            device=self.problem.inputs[0].device,
        )
        return TensorGame(self.problem, self.features, evaluator, per_call)

    def _fingerprint(self) -> bytes:
        """Differs between games with other values."""
        problem = self.problem
        digest = sha256(repr((problem.target, self.features.count)).encode())
        for tensor in leaves([*problem.inputs, *problem.baselines, *problem.extras, problem.target, self.features]):
            digest.update(repr((tensor.shape, tensor.dtype)).encode())
            own = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)  # one entry may be broadcast
            digest.update(own.flatten().view(torch.uint8).numpy().tobytes())
        return digest.digest()
