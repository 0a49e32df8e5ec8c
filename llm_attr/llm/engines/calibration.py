"""Whether an endpoint scores what it generates as it generated it, found out before anything is explained with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from time import monotonic
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from llm_attr.errors import EngineRefused
from llm_attr.llm.engines.endpoint import Completion, Endpoint, Scored
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import vocabulary_size
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.strategy import remember_noise

TOKENS = 24
"""How many tokens are generated: more than the 16 at which some servers cut off."""

TOLERANCE = 0.1
"""The mean difference in nats that rounding may make."""

TRIES = 4
"""How often a completion is asked for whose tokens can be told apart; four times as often while few can."""

TEXT = "The ferry from Tarnby to the old lighthouse leaves at eight in the morning, and it"
SHOWN = 6


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        tokens: How many tokens were generated and scored.
        difference: The mean difference between the log-probabilities of both, in nats.
        noise: The largest difference of a token's score alone and in the company of other prompts, in nats.
        reused: The positions that the server took from its prefix cache when it scored again, as it says.
        seconds: How long it took to score once.
        fingerprint: A hash of what the model generates greedily after a fixed prompt.
    """

    tokens: int
    difference: float
    noise: float
    reused: int
    seconds: float
    fingerprint: str

    @property
    def in_words(self) -> str:
        """In a few words, for provenance."""
        return f"calibrated on {self.tokens} tokens: {self.difference:.2g} nats off, noise {self.noise:.2g} nats"

    def to_dict(self) -> dict[str, Any]:
        """All numbers by name."""
        return asdict(self)


def calibrate(endpoint: Endpoint, language_model: LanguageModel) -> Calibration:
    """Generates tokens with their log-probabilities, asks for the scores of the same, and compares.

    The prompt begins with a random word, so that no cache has it. The same is asked three times: alone, again, and in
    the company of other prompts.

    Raises:
        EngineFailed: the endpoint does not answer.
        EngineRefused: the scores are off by one, cut off, missing, or change when they are asked for again.
    """
    prompt = language_model.encode(f"{uuid4().hex}. {TEXT}", special_tokens=True)
    answer, generated = _generated(endpoint, language_model, prompt)
    query, start = Query(Variant.plain(prompt), answer), monotonic()
    first = _scores(endpoint, [query])[0]
    seconds = monotonic() - start
    _compare(generated, first, endpoint)
    repeated = endpoint.score([query])[0]
    again = _tensor(repeated)
    company = [Query(Variant.plain(prompt[:1] + prompt[1 + cut :]), answer) for cut in (1, 2, 3)]
    asked = [company[0], query, *company[1:]]
    rows = [row for part in _parts(asked, endpoint.per_request) for row in _scores(endpoint, part)]
    for other, when in ((again, "when they were asked for again"), (rows[1], "in the company of other prompts")):
        off = (other - first).abs()
        if float(off.mean()) > TOLERANCE:
            raise EngineRefused(
                f"the server's scores of one answer change {when}: first {_shown(first)}, then {_shown(other)}; it "
                "answers rows of a poisoned cache; switch its prefix cache off, or use a version without this error"
            )
        remember_noise(language_model, other - first)
    noise = max(float((other - first).abs().max()) for other in (again, rows[1]))
    difference, greedy = float((generated - first).abs().mean()), _fingerprint(endpoint, language_model)
    return Calibration(len(answer), difference, noise, repeated.reused, seconds, greedy)


def report(endpoint: Endpoint, calibration: Calibration | None) -> Iterator[str]:
    """What is known of an endpoint, to paste."""
    can = endpoint.capabilities
    about = dict(endpoint.about)
    yield f"engine {about.pop('engine', 'unknown')} at {about.pop('address', 'no address')}, model {endpoint.name}"
    form = "token ids" if can.token_ids else "text"
    yield f"  context: {endpoint.context_length or 'not known'}; prompts go as {form}"
    yield f"  absences: {', '.join(can.absences)} (not mask: a request cannot say positions); no gradients"
    reuse = f"in blocks of {can.reuse_block}" if can.reuse_block else "not expected"
    yield f"  reuse of prefixes: {reuse}; {endpoint.in_flight} requests in flight, {endpoint.per_request} prompts each"
    if calibration is None:
        yield "  not calibrated: it generates without log-probabilities"
        return
    yield f"  calibration: {calibration.tokens} tokens generated and scored, {calibration.difference:.2g} nats apart"
    yield f"  noise of batching: {calibration.noise:.2g} nats; cached when asked again: {calibration.reused} tokens"
    yield f"  one scoring request: {calibration.seconds:.3g} s"


def _generated(
    endpoint: Endpoint, language_model: LanguageModel, prompt: Sequence[int]
) -> tuple[tuple[int, ...], Tensor]:
    """Tokens whose ids are known, and their log-probabilities; sampled, so that these differ from each other."""
    best: tuple[tuple[int, ...], Sequence[float]] = ((), ())
    by_text: dict[str, list[int]] = {}
    for seed in range(4 * TRIES):
        options = {"max_tokens": TOKENS, "temperature": 1.0, "seed": seed, "ignore_eos": True}
        done = endpoint.generate(prompt, options, log_probs=True)
        if not done.log_probs:
            raise EngineRefused("the server generates without log-probabilities, so its scores cannot be checked")
        if done.ids is None and not by_text:
            by_text = _by_text(language_model)
        ids = _named(done, by_text) if done.ids is None else done.ids
        best = max(best, (ids, done.log_probs[: len(ids)]), key=lambda pair: len(pair[0]))
        if len(best[0]) > TOKENS * 3 // 4 or (seed >= TRIES - 1 and len(best[0]) >= TOKENS // 3):
            break
    ids, values = best
    if len(ids) < 2 or len(values) != len(ids):
        raise EngineRefused(f"the server generated {len(ids)} tokens with {len(values)} log-probabilities to check by")
    return ids, torch.tensor(list(values), dtype=torch.float32, device="cpu")


def _by_text(language_model: LanguageModel) -> dict[str, list[int]]:
    """The tokens of the vocabulary by their text."""
    by_text: dict[str, list[int]] = {}
    for token in range(vocabulary_size(language_model.tokenizer) or 0):
        by_text.setdefault(language_model.decode([token]), []).append(token)
    return by_text


def _named(done: Completion, by_text: Mapping[str, list[int]]) -> tuple[int, ...]:
    """The ids of the first tokens whose text belongs to one token only."""
    ids: list[int] = []
    for text in done.tokens:
        if len(found := by_text.get(text, ())) != 1:
            break
        ids += found
    return tuple(ids)


def _scores(endpoint: Endpoint, queries: Sequence[Query]) -> list[Tensor]:
    return [_tensor(each) for each in endpoint.score(queries)]


def _tensor(scored: Scored) -> Tensor:
    return torch.tensor(scored.log_probs, dtype=torch.float32, device="cpu")


def _parts(queries: Sequence[Query], size: int) -> Iterator[Sequence[Query]]:
    for start in range(0, len(queries), size):
        yield queries[start : start + size]


def _compare(generated: Tensor, scored: Tensor, endpoint: Endpoint) -> None:
    off = float((generated - scored).abs().mean())
    if off <= TOLERANCE:
        return
    shifts = {"late": (scored[1:], generated[:-1]), "early": (scored[:-1], generated[1:])}
    for way, (one, other) in shifts.items():
        if len(one) > 1 and float((one - other).abs().mean()) <= TOLERANCE:
            raise EngineRefused(
                f"the server's scores are off by one (one token too {way}): it generated tokens with the "
                f"log-probabilities {_shown(generated)}, and scores the same with {_shown(scored)}"
            )
    raise EngineRefused(
        f"the server does not score what it generated as it generated it ({off:.2g} nats apart on average): "
        f"{_shown(generated)}, and {_shown(scored)}; its tokenizer may be another one than yours"
    )


def _shown(values: Tensor) -> str:
    return ", ".join(f"{value:.3f}" for value in values[:SHOWN].tolist()) + (" ..." if len(values) > SHOWN else "")


def _fingerprint(endpoint: Endpoint, language_model: LanguageModel) -> str:
    prompt = language_model.encode(TEXT, special_tokens=True)
    done = endpoint.generate(prompt, {"max_tokens": 8, "temperature": 0.0})
    return sha256(repr(done.ids or done.text).encode()).hexdigest()[:16]
