"""What the server computes: log-probabilities of given tokens, and completions with theirs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import InvalidValue
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import vocabulary_size
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.prefix_tree import PrefixTree, Query
from llm_attr.llm.scoring.scorer import Scorer


@dataclass(frozen=True)
class Generation:
    """New tokens.

    Attributes:
        ids: Their ids.
        log_probs: Their log-probabilities, before temperature.
        text: Their text without special tokens.
    """

    ids: list[int]
    log_probs: list[float]
    text: str


@dataclass
class Answering:
    """Scores and generates with one model, one request at a time.

    Attributes:
        language_model: Model and tokenizer.
        scored: How often each sequence was scored.
    """

    language_model: LanguageModel
    scored: Counter[tuple[int, ...]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def score(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> tuple[list[list[float]], list[int]]:
        """The log-probabilities of the tokens from each start on, and the positions that each row shares with others.

        Raises:
            InvalidValue: a start leaves nothing to score, or the rows are no token ids.
        """
        for row, start in zip(rows, starts, strict=True):
            if not 1 <= start < len(row) or not all(isinstance(token, int) and token >= 0 for token in row):
                raise InvalidValue(f"nothing to score from token {start} of {len(row)}")
        queries = [
            Query(Variant.plain(row[:start]), tuple(row[start:])) for row, start in zip(rows, starts, strict=True)
        ]
        with self._lock, torch.random.fork_rng([]):
            scores = Scorer(self.language_model).score(queries, Evaluator("serve", len(queries)))
            self.scored.update(tuple(row) for row in rows)
        saved = sum(len(query.tokens) for query in set(queries)) - len(PrefixTree.of(list(dict.fromkeys(queries))))
        return [each.tolist() for each in scores], [saved // len(rows)] * len(rows)

    def generate(self, ids: Sequence[int], options: Mapping[str, float | bool | int | None]) -> Generation:
        """A completion; `max_tokens`, `temperature`, `top_p`, `top_k`, `seed` and `ignore_eos` are read.

        Raises:
            InvalidValue: there is no prompt.
        """
        if not ids:
            raise InvalidValue("the prompt is empty")
        lm, heat = self.language_model, float(options.get("temperature") or 0.0)
        ends = sorted(lm.end_ids)
        arguments: dict[str, object] = {"max_new_tokens": int(options.get("max_tokens") or 16), "do_sample": heat > 0}
        if heat > 0:
            arguments |= {"temperature": heat, "top_p": options.get("top_p") or 1.0, "top_k": options.get("top_k") or 0}
        suppressed = self._unknown() + (ends if options.get("ignore_eos") else [])
        given = torch.tensor([list(ids)], device=lm.device)
        seed = options.get("seed")
        with self._lock, lm.inference(), torch.random.fork_rng([]):
            if seed is not None:
                torch.manual_seed(int(seed))
            output = lm.model.generate(
                input_ids=given, attention_mask=torch.ones_like(given), output_logits=True,
                pad_token_id=ends[0] if ends else 0, return_dict_in_generate=True,
                suppress_tokens=suppressed or None, **arguments,
            )  # fmt: skip
        new = output.sequences[0, len(ids) :].tolist()
        rows = torch.stack(list(output.logits), 1)[0].float().log_softmax(-1)
        log_probs = [float(row[token]) for row, token in zip(rows, new, strict=True)]
        return Generation(new, log_probs, lm.decode([token for token in new if token not in lm.end_ids]))

    def _unknown(self) -> list[int]:
        """Ids that the model has and the tokenizer lacks."""
        size, known = self.language_model.text_config.vocab_size, vocabulary_size(self.language_model.tokenizer)
        return list(range(known or size, size))
