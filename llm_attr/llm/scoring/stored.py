"""`StoredReadings`: readings of a model's answers in a ledger on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_attr.caller import warn_caller
from llm_attr.core.game.ledger_file import LedgerFile, Scope
from llm_attr.errors import BrokenFile, InvalidValue
from llm_attr.llm.model.attention import setting
from llm_attr.llm.model.fingerprint import UNKNOWN, computation
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.readout import Reading
from llm_attr.llm.target.scalar import Scalar

LOG_PROBS = "log_prob"
"""What the key of log-probabilities says that they are."""


@dataclass(frozen=True)
class StoredReadings:
    """The readings that a ledger has of one model.

    A reading's log-probabilities and each of its scalars are values of their own, so that an answer that was scored for
    one quantity is known to all that read its log-probabilities. Functions have no fingerprint: their values are not
    stored, and what reads them is scored anew.

    Attributes:
        file: The ledger.
        scope: The model, and how it computes.
        writes: Whether new readings are added.
    """

    file: LedgerFile
    scope: Scope
    writes: bool = True

    @classmethod
    def of(cls, path: Any, language_model: LanguageModel, cached: bool, scalars: Iterable[Scalar]) -> StoredReadings:
        """The readings of a model in the ledger at a path.

        Args:
            path: The file.
            language_model: Model and tokenizer.
            cached: Whether prefixes are shared; scores with and without it differ by rounding and are kept apart.
            scalars: What will be read.

        Raises:
            InvalidValue: the weights have no fingerprint.
            LlmAttrError: as in `LedgerFile`.
        """
        file, known = LedgerFile(path), computation(language_model)
        if known["weights"] in UNKNOWN:
            raise InvalidValue(
                f"the weights of {language_model.name} are {known['weights']}, so a ledger cannot tell them from "
                "others; leave out ledger=, or load the model into this process"
            )
        names = sorted({scalar.label for scalar in scalars if scalar.function is not None})
        if names:
            warn_caller(
                f"a function has no fingerprint, so the ledger keeps no values of {', '.join(names)}: its variants are "
                "scored each time",
                UserWarning,
            )
        settings = [str(each) for each in setting(language_model)[:4]]
        identity = {**known, "setting": settings, "shared prefixes": cached}
        about = {"model": language_model.name, "dtype": str(language_model.dtype).removeprefix("torch.")}
        return cls(file, Scope(identity, about))

    def reading_only(self) -> StoredReadings:
        """The same, without adding anything."""
        return replace(self, writes=False)

    def read(self, queries: Sequence[Query]) -> list[Reading | None]:
        """The readings; None for those that are not known in full."""
        names = self._names(queries)
        known = [of_query if None not in of_query else [] for of_query in names]
        found = self.file.read(self.scope, [name for of_query in known for name in of_query if name is not None])
        return [
            self._reading(query, [found.get(name) for name in own if name])
            for query, own in zip(queries, known, strict=True)
        ]

    def write(self, queries: Sequence[Query], readings: Sequence[Reading]) -> None:
        """Adds readings; those with NaN or infinite values are left out."""
        if not self.writes:
            return
        values = {}
        for names, reading in zip(self._names(queries), readings, strict=True):
            for name, part in zip(names, (reading.log_probs, *reading.scalars), strict=True):
                if name is not None and torch.isfinite(part).all():
                    values[name] = _packed(part)
        self.file.write(self.scope, values)

    def read_distributions(self, query: Query) -> Tensor | None:
        """`(answer tokens, vocabulary)` log-probabilities, if they are known."""
        name = _name(query, "distributions")
        value = self.file.read(self.scope, [name]).get(name)
        return None if value is None else self._unpacked(value, len(query.answer))

    def write_distributions(self, query: Query, distributions: Tensor) -> None:
        """Adds log-probabilities `(answer tokens, vocabulary)`."""
        if self.writes and torch.isfinite(distributions).all():
            self.file.write(self.scope, {_name(query, "distributions"): _packed(distributions)})

    def _names(self, queries: Sequence[Query]) -> list[list[bytes | None]]:
        """For each query the keys of its log-probabilities and of its scalars; None for a function."""
        parts = {scalar: _parts(scalar) for query in queries for scalar in query.scalars}
        return [
            [
                _name(query, LOG_PROBS),
                *(_name(query, *own) if (own := parts[scalar]) else None for scalar in query.scalars),
            ]
            for query in queries
        ]

    def _reading(self, query: Query, values: Sequence[bytes | None]) -> Reading | None:
        parts = [self._unpacked(value, len(query.answer)) for value in values if value is not None]
        return Reading(parts[0], tuple(parts[1:])) if values and len(parts) == len(values) else None

    def _unpacked(self, value: bytes, tokens: int) -> Tensor:
        numbers = torch.from_numpy(np.frombuffer(value, dtype="<f4").copy())
        if len(numbers) % tokens:
            raise BrokenFile(f"{self.file.path} is damaged: a value of {len(numbers)} numbers for {tokens} tokens")
        return numbers if len(numbers) == tokens else numbers.unflatten(0, (tokens, -1))


def _name(query: Query, *what: bytes | str) -> bytes:
    """The key of a quantity of a query's answer: what the model is given, and where."""
    variant, digest = query.variant, blake2b(digest_size=32)
    for numbers in (variant.tokens, variant.positions, (variant.end,), query.answer):
        digest.update(len(numbers).to_bytes(8, "little") + np.array(numbers, dtype="<i8").tobytes())
    for part in what:
        digest.update(part if isinstance(part, bytes) else part.encode())
    return digest.digest()


def _parts(scalar: Scalar) -> list[bytes | str]:
    """What identifies a scalar; nothing does a function."""
    if scalar.function is not None:
        return []
    return [scalar.name] if scalar.reference is None else [scalar.name, blake2b(_packed(scalar.reference)).digest()]


def _packed(values: Tensor) -> bytes:
    return bytes(values.detach().float().cpu().contiguous().numpy().astype("<f4").tobytes())
