"""Ten prompts whose answer hangs on several sentences, for `MinimalEdit`."""

from __future__ import annotations

from llm_attr import Prompt

FILLERS = (
    "Trains leave at noon.",
    "Bread is sold here.",
    "It rains on the hills.",
    "Maps hang on the wall.",
    "Birds sing in the park.",
    "Snow melts in spring.",
)

TASKS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("The password is falcon.", "Use the password falcon.", "Falcon is the password.", "Type falcon to enter."),
        "The password is",
        " falcon",
    ),
    (
        (
            "Nina plays the cello.",
            "The cello belongs to Nina.",
            "Nina loves her cello.",
            "A cello stands in Nina's room.",
        ),
        "Nina plays the",
        " cello",
    ),
    (
        ("The captain is Mr. Olsen.", "Mr. Olsen steers the ship.", "The crew trusts Mr. Olsen.", "Ask Mr. Olsen."),
        "The captain is Mr.",
        " Olsen",
    ),
    (
        (
            "The soup is made of pumpkin.",
            "Pumpkin soup is served.",
            "The cook likes pumpkin.",
            "Pumpkins lie in the kitchen.",
        ),
        "The soup is made of",
        " pumpkin",
    ),
    (
        ("The meeting is on Tuesday.", "We meet on Tuesday.", "Come on Tuesday.", "Tuesday is the day."),
        "The meeting is on",
        " Tuesday",
    ),
    (
        ("Mara lives in Lisbon.", "Mara works in Lisbon.", "Mara loves Lisbon.", "Lisbon is where Mara was born."),
        "Mara lives in",
        " Lisbon",
    ),
    (
        ("Jonas studies law.", "Jonas reads law books.", "Law is what Jonas likes.", "Jonas passed law exams."),
        "Jonas studies",
        " law",
    ),
    (
        ("The winner was Brazil.", "Brazil won the final.", "Fans of Brazil danced.", "Brazil took the cup."),
        "The winner was",
        " Brazil",
    ),
    (
        ("The cat is called Luna.", "Luna is a cat.", "The cat Luna sleeps.", "Feed Luna, the cat."),
        "The cat is called",
        " Luna",
    ),
    (
        ("The doctor is Mrs. Weber.", "Mrs. Weber heals people.", "Visit Mrs. Weber.", "Patients like Mrs. Weber."),
        "The doctor is Mrs.",
        " Weber",
    ),
)
"""Sentences that say it, the beginning of a sentence that asks for it, and how that goes on."""


def prompts() -> list[tuple[Prompt, str]]:
    """Each prompt, of ten sentences before a question that is no unit, and its answer."""
    found = []
    for number, (facts, question, answer) in enumerate(TASKS):
        mixed = list(FILLERS)
        for place, fact in enumerate(facts):
            mixed.insert((number + 3 * place) % (len(mixed) + 1), fact)
        text = " ".join(mixed)
        spans, start = [], 0
        for sentence in mixed:
            start = text.index(sentence, start)
            spans.append((start, start + len(sentence)))
            start += len(sentence)
        found.append((Prompt(f"{text} {question}", spans=spans), answer))
    return found
