"""What all methods share that play games with the features of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch

from llm_attr.attr.base import Attribution
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.driver import Estimator, Played, check_finite, design, estimated, play
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.game.features import Ownership
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.game.tensor_game import TensorGame
from llm_attr.core.problem import Problem
from llm_attr.core.tensors import in_slots, leaves
from llm_attr.errors import InvalidValue
from llm_attr.typing import Coalitions, TensorOrTensors, Values


class PerturbationAttribution(Attribution):
    """A method that compares the output with that of inputs whose features are absent.

    Shared arguments of `attribute`, besides those of `Attribution`:

    * `feature_mask`: whole numbers that broadcast to the inputs, one mask for each of them; positions with the same
      number, in any of the inputs, are one feature and are absent together. None: each position is a feature of its
      own.
    * `perturbations_per_eval`: coalitions of one call. None: one call is tried with a doubled batch; if the answers
      double and stay equal, calls are as large as fits, else one at a time.
    * `ledger`: a `Ledger`, in which the value of every coalition is kept, so that another method (or a larger sample)
      for the same inputs, target and features does not ask the model again.

    Sampled methods also take:

    * `n_samples`: the size of the sample; with `until` or `budget` the least one, as far as the budget goes.
    * `until`: sampling goes on until the largest standard error is at most this share of the largest attribution of
      the same output (`0.05`), or until the k largest attributions are apart from all others (`"top 3 stable"`). A
      warning says where the budget ended it before.
    * `budget`: the most evaluations (`200`), or the most time (`"30 s"`). The first of `until` and `budget` that holds
      ends the sampling.
    * `seed`: of the sample. None: torch's global stream, as in Captum, where Captum has the method.
    * `return_stderr`: also gives the standard error of each attribution, in the same form, scaled to Student's t of the
      sample: 1.96 of them on each side hold the exact value in about 95 % of the cases, from 5 samples on.
    """

    estimator: Callable[..., Estimator]
    """Makes the estimator that this method plays games with, from the method's own options; the same for text.

    A method has none if it cannot explain a single prompt: it moves a layer, or needs other examples.
    """

    @property
    def estimator_options(self) -> Mapping[str, Any]:
        """Those of these options that were given where the method was made."""
        return {}

    @classmethod
    def plays_any_game(cls) -> bool:
        """Whether it can play games of other things than tensors: a prompt, a metric of a data set."""
        return hasattr(cls, "estimator")

    @property
    def multiplies_by_inputs(self) -> bool:
        """Attributions are differences of outputs."""
        return True

    def _playing(
        self,
        problem: Problem,
        features: Ownership,
        estimator: Estimator,
        per_call: int | None = None,
        show_progress: bool = False,
        stopping: Stopping | None = None,
        ledger: Ledger | None = None,
    ) -> Playing:
        """The game of a problem, ready to be played."""
        if per_call is not None and per_call < 1:
            raise InvalidValue(f"perturbations_per_eval must be at least 1 or None; got {per_call}")
        stopping = stopping or Stopping()
        evaluator = Evaluator(
            f"{self.get_name()} attribution",
            estimator.evaluations(features.count, stopping.evaluations),
            show_progress=show_progress,
            device=problem.inputs[0].device,
        )
        game = TensorGame(problem, features, evaluator, per_call)
        return Playing(game, estimator, stopping, ledger)


@dataclass(frozen=True)
class Playing:
    """A tensor game and how it is played.

    Attributes:
        game: The game.
        estimator: What asks for coalitions.
        stopping: When a sample is large enough.
        ledger: Where values are kept; None: nowhere.
    """

    game: TensorGame
    estimator: Estimator
    stopping: Stopping
    ledger: Ledger | None = None

    def played(self) -> Played:
        """Plays the game."""
        features, ledger = self.game.features.count, self.ledger
        if ledger is not None:
            ledger.claim((self.game.problem.forward, _name(self.game)))
            self.game.shape = ledger.shape
        with self.game.evaluator as evaluator:
            played = play(self.game, self.estimator, features, self.stopping, ledger=ledger)
            evaluator.finish()
        if ledger is not None:
            ledger.shape = self.game.shape
        return played

    def estimate(
        self, read: Callable[[Coalitions, Values], Estimate] | None = None, return_stderr: bool = False
    ) -> Estimate:
        """Plays the game: `(features, outputs)`, in the type of the output.

        Args:
            read: What is read from the values; None: the estimator's attributions.
            return_stderr: Whether standard errors are needed.

        Raises:
            InvalidValue: they are, and the method has none.
        """
        if return_stderr and self.estimator.fixed:
            raise InvalidValue("return_stderr is for sampled methods: this one evaluates all that it needs")
        played = self.played()
        return estimated(read or self.estimator.estimate, played.coalitions, played.values)

    def promise(self) -> torch.futures.Future[Estimate]:
        """The promise of `(features, outputs)`, from a forward function that gives promises; all calls at once."""
        features = self.game.features.count
        with ExitStack() as stack:
            evaluator = stack.enter_context(self.game.evaluator)
            asked = torch.cat(list(design(self.estimator, features)))
            distinct, index = (asked, slice(None)) if self.estimator.fixed else asked.unique(dim=0, return_inverse=True)
            promise = self.game.submit(distinct)
            until_done = stack.pop_all()

        def finish(done: torch.futures.Future[Values]) -> Estimate:
            with until_done:
                evaluator.check()
                evaluator.finish()
            values = done.value()[index]
            if not getattr(self.estimator, "takes_any_value", False):
                check_finite(asked, values)
            return estimated(self.estimator.estimate, asked, values)

        return promise.then(finish)

    def answer(self, return_stderr: bool = False, by_output: bool = False, return_input_shape: bool = True) -> Any:
        """Plays the game and gives the attributions in the caller's form; then their standard errors, if asked for."""
        found = self.estimate(return_stderr=return_stderr)
        forms = [
            self.in_form(each, by_output) if each is None or return_input_shape else each.T
            for each in (found.values, found.stderr)[: 1 + return_stderr]
        ]
        return tuple(forms) if return_stderr else forms[0]

    def in_form(self, values: Values | None, by_output: bool = False) -> TensorOrTensors:
        """`(features, outputs)` in the form of the inputs, `(outputs, *features)` each.

        Args:
            values: Attributions or their errors.
            by_output: Whether several outputs for each example keep their axes: `(*output.shape, *features)`.
        """
        if values is None:
            raise InvalidValue("return_stderr is for sampled methods: this one evaluates all that it needs")
        shape = self.game.shape
        spread = self.game.features.spread(values)
        if by_output and shape is not None and len(shape) > 1:
            spread = tuple(tensor.unflatten(0, shape) for tensor in spread)
        return in_slots(spread, self.game.problem.slots)[0]


def _name(game: TensorGame) -> bytes:
    """What tells one game from another."""
    problem = game.problem
    found = sha256(repr((problem.target, game.features.count)).encode())
    for tensor in leaves([*problem.inputs, *problem.baselines, *problem.extras, problem.target, game.features]):
        found.update(repr((tensor.shape, tensor.dtype)).encode())
        own = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)  # one entry may be broadcast
        found.update(own.flatten().view(torch.uint8).numpy().tobytes())
    return found.digest()
