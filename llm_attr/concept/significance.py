"""Scores of concepts beside those of random concepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from llm_attr.concept.concept import Concept
from llm_attr.core.concepts.significance import bootstrap_interval, holm, permutation_test, smallest_p
from llm_attr.errors import InvalidType, InvalidValue, UnknownName
from llm_attr.viz.concepts import plot_concepts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Score: TypeAlias = Literal["sign_count", "magnitude"]
"""What is tested of a concept."""


@dataclass(frozen=True, eq=False)
class ConceptSignificance:
    """Scores of concepts at layers, and whether random concepts score the same.

    Attributes:
        layers: The names of the layers.
        concepts: The names of the concepts.
        scores: float64 `(layers, concepts, runs)`: of each concept beside each random concept.
        chance: float64 `(layers, other runs)`: of random concepts beside each other.
        low: `(layers, concepts)`: the lower ends of the intervals of the mean scores, by bootstrap over runs.
        high: `(layers, concepts)`: their upper ends.
        p_values: `(layers, concepts)`: of the difference between the means of `scores` and `chance`, by permutation.
        corrected: `(layers, concepts)`: the same, holding for all layers and concepts together (Holm).
        score: `sign_count` or `magnitude`.
        level: The coverage of the intervals.
    """

    layers: tuple[str, ...]
    concepts: tuple[str, ...]
    scores: Tensor
    chance: Tensor
    low: Tensor
    high: Tensor
    p_values: Tensor
    corrected: Tensor
    score: str
    level: float

    @property
    def mean(self) -> Tensor:
        """`(layers, concepts)`: the mean scores."""
        return self.scores.mean(2)

    @property
    def smallest_p(self) -> float:
        """The least p-value that so many runs can have, before the correction."""
        return smallest_p(self.scores.shape[2], self.chance.shape[1])

    def significant(self, alpha: float = 0.05) -> Tensor:
        """`(layers, concepts)`: whether the corrected p-value is at most `alpha`.

        Args:
            alpha: The rate of false alarms, for all layers and concepts together.
        """
        return self.corrected <= alpha

    def __str__(self) -> str:
        width = max(map(len, self.layers))
        lines = [f"{self.score}: mean [{self.level:.0%} interval], by chance, p, p for all layers and concepts"]
        for row, layer in enumerate(self.layers):
            for column, concept in enumerate(self.concepts):
                mean, low, high = (float(each[row, column]) for each in (self.mean, self.low, self.high))
                p, corrected = float(self.p_values[row, column]), float(self.corrected[row, column])
                by_chance = float(self.chance[row].mean())
                numbers = f"{mean:.3f} [{low:.3f}, {high:.3f}]  {by_chance:.3f}  p {p:.4f}  {corrected:.4f}"
                lines.append(f"{layer:<{width}}  {concept}  {numbers}" + (" *" if corrected <= 0.05 else ""))
        return "\n".join(lines)

    def plot(self, alpha: float = 0.05, title: str | None = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Bars of the mean scores with intervals, and what random concepts score.

        Args:
            alpha: The rate of false alarms; bars above it are pale.
            title: The title.
            ax: Axes to draw into; by default those of a new figure.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        return plot_concepts(
            self.layers,
            self.concepts,
            self.mean,
            (self.low, self.high),
            self.significant(alpha),
            self.chance,
            score_name={"sign_count": "TCAV score: share of inputs"}.get(self.score, self.score),
            title=title,
            ax=ax,
        )


def check_runs(concepts: Any, randoms: Any, score: str) -> tuple[list[Concept], list[Concept]]:
    """What is tested, and the random concepts.

    Raises:
        InvalidType: they are not lists of concepts.
        InvalidValue: there are too few, or two with the same id.
        UnknownName: another score.
    """
    if score not in get_args(Score):
        raise UnknownName("score", score, get_args(Score))
    for name, given in (("concepts", concepts), ("random_concepts", randoms)):
        if not isinstance(given, Sequence) or not all(isinstance(each, Concept) for each in given):
            raise InvalidType(f"{name} must be a list of concepts; got {given!r}")
    if not concepts:
        raise InvalidValue("concepts is empty; name at least one")
    if len(randoms) < 3:
        raise InvalidValue(f"a test needs at least 3 random concepts, better 10 or more; got {len(randoms)}")
    ids = [each.id for each in [*concepts, *randoms]]
    if len(set(ids)) < len(ids):
        raise InvalidValue(f"all concepts and random concepts need ids of their own; got {ids}")
    return list(concepts), list(randoms)


def judged(
    layers: tuple[str, ...], concepts: tuple[str, ...], scores: Tensor, chance: Tensor, score: str, level: float
) -> ConceptSignificance:
    """The test of `(layers, concepts, runs)` scores beside `(layers, other runs)` of chance."""
    p_values = [
        [permutation_test(runs, by_chance) for runs in row] for row, by_chance in zip(scores, chance, strict=True)
    ]
    ends = torch.tensor(
        [[bootstrap_interval(runs, level) for runs in row] for row in scores], dtype=torch.float64, device="cpu"
    )
    p = torch.tensor(p_values, dtype=torch.float64, device="cpu")
    return ConceptSignificance(layers, concepts, scores, chance, ends[..., 0], ends[..., 1], p, holm(p), score, level)
