"""Items with planted truth for the trust report: eight sentences with a fact once, or nine with it twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm_attr.llm.prompt.prompt import Prompt
from tests.benchmarks.faithfulness_prompts import PROMPTS, Planted

FILLERS = (
    "The post office is shut on Sunday.",
    "Two carts stand by the gate.",
    "A kite hangs in the elm.",
    "The wall was painted last year.",
    "Somebody lost a glove.",
)

SECOND = (
    "Rye bread is what Marta bakes.",
    "Tomas has his home in Oulu.",
    "It was in 1912 that the clock stopped.",
    "Juno is the name of the baker's horse.",
    "The pilot comes from Chile.",
    "The cello is what Olav plays.",
    "The guard of the museum collects stamps.",
    "You find the key under the mat.",
    "Karl left his umbrella at home because he forgot it.",
    "A doctor owns the vineyard.",
    "Ebba's sister is a weaver of carpets.",
    "Tomatoes are grown by the keeper of the lighthouse.",
    "Noor plays best of all in the club.",
    "Violins are what Jonas builds.",
    "The porter of the hotel speaks Greek.",
    "There are eleven goats on the farm.",
    "They meet in room seven.",
    "Owls are kept by the priest.",
    "Rafi owns the telescope.",
    "From Turin comes the new oven.",
)
"""The fact of each prompt once more, in other words."""


@dataclass(frozen=True)
class Item:
    """Sentences, a question, the answer, and the indices of the sentences that hold it."""

    sentences: tuple[str, ...]
    question: str
    answer: str
    relevant: tuple[int, ...]

    def prompt(self) -> Prompt:
        """The prompt, whose units are the sentences; the question is always present."""
        text, spans, start = " ".join(self.sentences), [], 0
        for sentence in self.sentences:
            spans.append((start, start + len(sentence)))
            start += len(sentence) + 1
        return Prompt(f"{text}\nQuestion: {self.question}\nAnswer:", spans=spans)

    def explained(self, lm: Any, method: str, **options: Any) -> Any:
        """An explanation of the answer."""
        import llm_attr

        return llm_attr.explain(lm, self.prompt(), target=self.answer, method=method, **options)


def single(number: int) -> Item:
    """A fact among eight sentences."""
    planted: Planted = PROMPTS[number]
    more = [FILLERS[(number + i) % len(FILLERS)] for i in range(2)]
    return Item((*planted.sentences, *more), planted.question, planted.answer, (planted.relevant,))


def twice(number: int) -> Item:
    """The same item with the fact once more, in other words, three sentences later."""
    item = single(number)
    (first,) = item.relevant
    place = (first + 4) % (len(item.sentences) + 1)
    sentences = (*item.sentences[:place], SECOND[number], *item.sentences[place:])
    moved = first + (place <= first)
    return Item(sentences, item.question, item.answer, tuple(sorted((moved, place))))
