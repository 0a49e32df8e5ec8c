"""What a metric returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llm_attr.core.faithfulness.feature_game import CoalitionGame, FeatureGame, Spent
from llm_attr.errors import InvalidType, UnsupportedMethod


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    """The value of a metric for each explained output, and what it cost; unpacks into `values, stderr`.

    Attributes:
        metric: The name of the metric.
        values: float64 `(outputs,)`: one for each example of a batch, or for each explained output of a text.
        stderr: The standard error of each value; None where nothing is sampled.
        higher_is_better: Whether a larger value speaks for the attribution.
        evaluations: Coalitions that the model evaluated for this metric; those known before are not counted.
        passes: Forward passes of a language model for this metric; None for other models.
    """

    metric: str
    values: Tensor
    stderr: Tensor | None
    higher_is_better: bool
    evaluations: int = 0
    passes: int | None = None

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter((self.values, self.stderr))

    def __repr__(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.values.flatten().tolist()[:8])
        more = ", ..." if self.values.numel() > 8 else ""
        passes = "" if self.passes is None else f", {self.passes} passes"
        return f"{type(self).__name__}({self.metric}: {values}{more}; {self.evaluations} evaluations{passes})"


@dataclass(frozen=True, eq=False, repr=False)
class CurveScore(Score):
    """A score that is the area under a curve; `llm_attr.viz.curves.plot_curves` draws it.

    Attributes:
        fractions: `(points,)`: the share of the features that are removed or added.
        curve: `(outputs, points)`: the value there, averaged over the orders of ties.
    """

    fractions: Tensor | None = None
    curve: Tensor | None = None


@dataclass(frozen=True)
class Judged:
    """Attributions and the game that judges them.

    Attributes:
        rows: float64 `(outputs, features)` on the CPU.
        game: The game.
        before: What it had cost before.
    """

    rows: Tensor
    game: FeatureGame
    before: Spent

    @classmethod
    def of(cls, attributions: Any, judge: Any) -> Judged:
        """Attributions and their judge: a game, a result of `explain`, or a function of coalitions.

        Raises:
            InvalidType: the judge is something else.
            InvalidShape: the attributions do not fit it.
            UnsupportedMethod: a result that was loaded has no model to ask.
        """
        game = as_game(attributions, judge)
        return cls(game.rows(attributions), game, game.spent)

    @property
    def outputs(self) -> int:
        """How many outputs the attributions explain."""
        return len(self.rows)

    @property
    def cost(self) -> dict[str, Any]:
        """The fields of a score that say what it cost."""
        spent = self.game.spent.since(self.before)
        return {"evaluations": spent.evaluations, "passes": spent.passes}

    def everything(self) -> Tensor:
        """`(outputs,)`: the value with all features."""
        return self._of_all(True)

    def nothing(self) -> Tensor:
        """`(outputs,)`: the value without any."""
        return self._of_all(False)

    def _of_all(self, present: bool) -> Tensor:
        coalition = self.rows.new_full((1, self.rows.shape[1]), float(present)).bool()
        return self.game.shared(coalition, self.outputs)[:, 0]


def as_game(attributions: Any, judge: Any) -> FeatureGame:
    """The game that judges attributions.

    Raises:
        InvalidType: the judge is neither a game, nor a result, nor a function of coalitions.
        UnsupportedMethod: a result that was loaded has no model to ask.
    """
    if isinstance(judge, FeatureGame):
        return judge
    if hasattr(judge, "seq_attr"):
        game = getattr(judge, "game", None)
        if not isinstance(game, FeatureGame):
            raise UnsupportedMethod(
                "this result has no model to ask: it was loaded, or its units cannot be left out; use a result of "
                "explain, or llm_attr.prompt_game(model, prompt, target=...)"
            )
        return game
    if callable(judge):
        if not isinstance(attributions, Tensor) or attributions.dim() not in (1, 2):
            given = tuple(attributions.shape) if isinstance(attributions, Tensor) else type(attributions).__name__
            raise InvalidType(
                f"attributions that a function judges must be a tensor (features,) or (outputs, features); got {given}"
            )
        return CoalitionGame(judge, attributions.shape[-1])
    raise InvalidType(
        "attributions are judged by an InputGame, a result of explain, llm_attr.prompt_game, or a function of "
        f"coalitions; got {type(judge).__name__}"
    )
