"""The jobs that language-model benchmarks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llm_attr import attr

TEMPLATE = (
    "{} lives in {}, {} and is a {}. {} is {} years old, drives a {} and has a {} called {}. "
    "On weekends he goes to the {}. What are the personal interests of this person likely to be? Answer:"
)
VALUES = ["Dave", "Palm Coast", "FL", "lawyer", "He", "42", "pickup truck", "dog", "Rex", "beach"]
BASELINES = ["Someone", "a place", "USA", "worker", "They", "some", "vehicle", "pet", "it", "place"]
INTERESTS = " He likes fishing on the coast, walking his dog on the beach, and reading about the law."

LIGHTHOUSE = (
    "The Tarn Point lighthouse stands on a narrow spit of rock about four kilometres west of the fishing "
    "village of Osmark, and it can be reached on foot only when the tide is out.",
    "Its lantern room was rebuilt in 1931 after a winter storm had broken every pane of glass and carried"
    " away the copper roof.",
    "For the first sixty years the light burned whale oil, which was delivered in barrels by a supply "
    "boat twice a year.",
    "The head keeper, Ingrid Solberg, kept a diary in which she wrote down the weather, the passing ships"
    " and the birds.",
    "Two assistants lived in the low stone house next to the tower together with their families and a "
    "small herd of goats.",
    "On clear nights the beam could be seen from the harbour of Velling, more than thirty kilometres across the sound.",
    "A fog bell was added later because the cliffs are hidden in mist for almost a third of all days in the autumn.",
    "The bell was made in a foundry in Aarhus and weighs eight hundred kilograms, as much as a full grown horse.",
    "In 1974 the light was switched to electricity and the last keeper moved to a flat in the middle of the town.",
    "Today the tower belongs to a society of volunteers who paint it every second summer and repair the iron stairs.",
    "Visitors may climb to the gallery on Saturdays, but children under the age of six must wait in the garden below.",
    "Question: Who was the head keeper of the lighthouse, and what was written down in the diary? Answer:",
)
KEEPER = " The head keeper was Ingrid Solberg, who wrote down the weather, the passing ships and the birds."


@dataclass(frozen=True)
class Job:
    """A prompt and an answer, as inputs of a library's own classes."""

    name: str
    make_input: Callable[[Any, Any], Any]
    target: str


def _template(library: Any, _: Any) -> Any:
    return library.TextTemplateInput(TEMPLATE, VALUES, baselines=BASELINES)


def _first_six(library: Any, _: Any) -> Any:
    template = TEMPLATE.format(*["{}"] * 6, *VALUES[6:])
    return library.TextTemplateInput(template, VALUES[:6], baselines=BASELINES[:6])


def _tokens(library: Any, tokenizer: Any) -> Any:
    return library.TextTokenInput(TEMPLATE.format(*VALUES), tokenizer)


def _sentences(library: Any, _: Any) -> Any:
    return library.TextTemplateInput(" ".join(["{}"] * len(LIGHTHOUSE)), list(LIGHTHOUSE))


TMPL10 = Job("tmpl10", _template, INTERESTS)
TMPL6 = Job("tmpl6", _first_six, INTERESTS)
TOKEN54 = Job("token54", _tokens, INTERESTS)
RAG12 = Job("rag12", _sentences, KEEPER)
OURS = attr

QUESTIONS = (
    "What does a violin maker do?", "Why is the sea salty?", "Who wrote Hamlet?", "What is the capital of Norway?",
    "How many legs has a spider?", "What do bees make?", "Why does iron rust?", "Where do penguins live?",
    "What is a lighthouse for?", "How far away is the moon?", "What is bread made of?", "Who painted the Mona Lisa?",
    "When do leaves fall?", "What is a fog bell?", "Why do cats purr?", "How does a mill work?",
)  # fmt: skip
CHATS = [[{"role": "user", "content": f"{question} Answer in one short sentence."}] for question in QUESTIONS]
REPLY = "I think that this is a very good question."
"""Sixteen short questions to a chat model, whose template is longer than they are."""
