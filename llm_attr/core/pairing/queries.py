"""The four queries of every pairing: scores, the most influential, influence on itself, and the vectors themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.pairing.data import Batch, Examples
from llm_attr.core.pairing.gradients import Embedding
from llm_attr.core.pairing.ranking import KMostInfluentialResults, Ranking


class Pairing(ABC):
    """An embedding of each example and a product of two.

    `influence(test, train) = sum over stages of weight * <embedding of test, embedding of train>`.

    Attributes:
        name: The label of progress bars.
        stages: How many states of the model take part.
    """

    name: str
    stages: int

    @abstractmethod
    def opened(self) -> AbstractContextManager[None]:
        """Puts the model back as it was when the query is over."""

    @abstractmethod
    def enter(self, stage: int) -> float:
        """Brings the model to a stage; returns its weight."""

    @abstractmethod
    def embed(self, batch: Batch, test: bool) -> Embedding:
        """The embedding of a batch at the current stage."""


class Query:
    """One query of a pairing.

    Args:
        pairing: The pairing.
        expected: The expected number of embeddings.
        show_progress: Whether to draw a bar.
    """

    def __init__(self, pairing: Pairing, expected: int, show_progress: bool = False) -> None:
        self._pairing = pairing
        self._evaluator = Evaluator(pairing.name, expected, show_progress=show_progress)

    def influences(self, tests: Examples, train: Examples, aggregate: bool = False) -> Tensor:
        """`(test examples, training examples)`; with `aggregate`, `(1, training examples)`: summed over the tests."""
        with closing(self._scores(tests, train, aggregate)) as rounds:
            rows = [torch.cat(list(pieces), 1) for pieces in rounds]
        return torch.cat(rows) if not aggregate else torch.stack(rows).sum(0)

    def most_influential(
        self, tests: Examples, train: Examples, k: int, proponents: bool, aggregate: bool = False
    ) -> KMostInfluentialResults:
        """The k training examples with the largest or smallest scores for each test example."""
        if aggregate:
            ranking = Ranking(k, proponents)
            ranking.add(self.influences(tests, train, aggregate), 0)
            return ranking.result
        with closing(self._scores(tests, train, aggregate)) as rounds:
            results = [_ranked(pieces, k, proponents) for pieces in rounds]
        return KMostInfluentialResults(*map(torch.cat, zip(*results, strict=True)))

    def self_influences(self, examples: Examples, by_stage: bool = False) -> Tensor:
        """`(examples,)`: the influence of each example on itself.

        Args:
            examples: The examples.
            by_stage: Whether the data is read anew for each stage, each of which is entered once; else it is read once.
        """
        with self._evaluator, self._pairing.opened():
            found = []
            for batches in [examples] if by_stage else examples.rounds():
                total: Tensor | None = None
                for stage in range(self._pairing.stages):
                    weight = self._pairing.enter(stage)
                    each = torch.cat([part.squares() for part in self._embedded(batches, False)])
                    total = weight * each if total is None else total + weight * each
                found.append(total)
            self._evaluator.finish()
        return torch.cat([each for each in found if each is not None])

    def vectors(self, examples: Examples, aggregate: bool = False, test: bool = False) -> Tensor:
        """`(examples, entries)`, or their sum `(1, entries)`; their inner products are the influences.

        Each stage's entries are multiplied with the root of its weight, so that inner products sum up over the stages.
        """
        with self._evaluator, self._pairing.opened():
            found = []
            for batches in examples.rounds():
                columns = []
                for stage in range(self._pairing.stages):
                    root = self._pairing.enter(stage) ** 0.5
                    parts = self._embedded(batches, test)
                    rows = [self._written_out(part, aggregate) for part in parts]
                    columns.append(root * (torch.stack(rows).sum(0) if aggregate else torch.cat(rows)))
                found.append(torch.cat(columns, 1))
            self._evaluator.finish()
        return torch.stack(found).sum(0) if aggregate else torch.cat(found)

    @staticmethod
    def _written_out(part: Embedding, aggregate: bool) -> Tensor:
        return (part.total() if aggregate else part).written_out()

    def _scores(self, tests: Examples, train: Examples, aggregate: bool) -> Generator[Iterator[Tensor]]:
        """For each round of tests the scores, in pieces `(test examples, training examples)`."""
        with self._evaluator, self._pairing.opened():
            for round_of_tests in tests.rounds():
                yield self._against(round_of_tests, train, aggregate)
            self._evaluator.finish()

    def _against(self, tests: Sequence[Batch], train: Examples, aggregate: bool) -> Iterator[Tensor]:
        stages, weight = range(self._pairing.stages), 1.0
        kept: list[Embedding] | None = None
        for batches in train.rounds():
            scores: Tensor | None = None
            for stage in stages:
                if kept is None or len(stages) > 1:
                    weight = self._pairing.enter(stage)
                    kept = self._tests(tests, aggregate)
                each = weight * torch.cat([_rows(kept, part) for part in self._embedded(batches, False)], 1)
                scores = each if scores is None else scores + each
            if scores is not None:
                yield scores

    def _tests(self, tests: Sequence[Batch], aggregate: bool) -> list[Embedding]:
        parts = list(self._embedded(tests, True))
        if not aggregate:
            return parts
        total = parts[0].total()
        for part in parts[1:]:
            total = total.plus(part.total())
        return [total]

    def _embedded(self, batches: Sequence[Batch] | Examples, test: bool) -> Iterator[Embedding]:
        for batch in batches:
            embed = self._embedding_of(batch, test)
            for part in self._evaluator.run(batch.count, batch.count, embed):
                yield part
                self._evaluator.advance(part.count)

    def _embedding_of(self, batch: Batch, test: bool) -> Callable[[int, int], Embedding]:
        return lambda start, stop: self._pairing.embed(batch.rows(start, stop), test)


def _ranked(pieces: Iterator[Tensor], k: int, proponents: bool) -> KMostInfluentialResults:
    ranking, start = Ranking(k, proponents), 0
    for scores in pieces:
        ranking.add(scores, start)
        start += scores.shape[1]
    return ranking.result


def _rows(tests: Sequence[Embedding], train: Embedding) -> Tensor:
    return torch.cat([test.product(train) for test in tests])
