"""Queries of an index: which training texts made an answer more or less likely."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from llm_attr.errors import BrokenFile, InvalidShape, InvalidValue, positive
from llm_attr.llm.influence.examples import IGNORED, TextExample, TokenLoss, batch_of, encoded
from llm_attr.llm.influence.index import read_settings, sides_of, vectors
from llm_attr.llm.influence.layers import LayerGradients, linear_parameters
from llm_attr.llm.model.fingerprint import UNKNOWN, weights_hash
from llm_attr.llm.model.language_model import LanguageModel


@dataclass(frozen=True)
class TextInfluence:
    """The influence of each training text on an answer.

    Attributes:
        prompt: What came before the answer.
        tokens: The tokens of the answer.
        scores: `(tokens of the answer, texts)`: positive where a text made the token more likely.
        texts: The training texts.
    """

    prompt: str
    tokens: tuple[str, ...]
    scores: np.ndarray
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.scores.shape != (len(self.tokens), len(self.texts)):
            raise InvalidShape(
                f"scores must be (tokens of the answer, texts), here ({len(self.tokens)}, {len(self.texts)}); got "
                f"{self.scores.shape}"
            )

    @property
    def total(self) -> np.ndarray:
        """`(texts,)`: the influence on the whole answer."""
        return self.scores.sum(0)

    def proponents(self, k: int = 5) -> list[int]:
        """The numbers of the texts that made the answer most likely, the strongest first."""
        return [int(i) for i in np.argsort(-self.total, kind="stable")[: positive("k", k)]]

    def opponents(self, k: int = 5) -> list[int]:
        """The numbers of the texts that made the answer least likely, the strongest first."""
        return [int(i) for i in np.argsort(self.total, kind="stable")[: positive("k", k)]]

    def to_text(self, k: int = 5) -> str:
        """Proponents and opponents, at most k each, with the tokens of the answer that each speaks to."""
        lines = [f"{self.prompt} >>> {''.join(self.tokens)}"]
        for title, best, sign in (("proponents", self.proponents(k), 1), ("opponents", self.opponents(k), -1)):
            numbers = [number for number in best if sign * self.total[number] > 0]
            lines.append(f"{title}:" if numbers else f"{title}: none")
            for number in numbers:
                lines.append(f"  {self.total[number]:+10.4g}  [{number}] {self.texts[number]}")
                lines.append(f"              speaks to: {self._spoken_to(number, sign)}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text()

    def _spoken_to(self, number: int, sign: int) -> str:
        """The tokens with the largest parts of a score of this sign, with their shares of all such parts."""
        parts = np.maximum(sign * self.scores[:, number], 0)
        total = parts.sum()
        order = [int(i) for i in np.argsort(-parts, kind="stable")[:3] if parts[i] > 0]
        return ", ".join(f"{self.tokens[i]!r} {parts[i] / total:.0%}" for i in order) or "none"

    def save_scores(self, path: str | Path) -> None:
        """Writes the influences on the whole answer as a NumPy file, `(1, texts)`, for bergson, dattri and others."""
        np.save(path, self.total[None])


class InfluenceIndex:
    """An index made by `build_index`, its gradients mapped from disk.

    Args:
        folder: The folder.
        damping: What is added to each curvature, in units of the layer's mean curvature.

    Raises:
        BrokenFile: there is no index, or it is not complete.
        NewerFile: a newer version of llm_attr wrote it.
        InvalidValue: the damping is not positive.

    Example:
        >>> from llm_attr.llm.influence.query import InfluenceIndex
        >>> print(InfluenceIndex("index").query(lm, "What does Aksel repair?", " Violins"))  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, damping: float = 0.1) -> None:
        if isinstance(damping, bool) or not isinstance(damping, int | float) or damping <= 0:
            raise InvalidValue(f"damping must be a positive number; got {damping!r}")
        self.folder, self.damping = Path(folder), damping
        self.settings = read_settings(self.folder)
        files = [self.folder / "gradients" / f"{shard:05}.npy" for shard in range(self.settings.shards)]
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise BrokenFile(
                f"{folder} is not complete: {len(missing)} of {len(files)} files are missing; build it again"
            )
        self.shards = [np.load(file, mmap_mode="r") for file in files]
        lines = (self.folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()
        self.texts = tuple(str(TextExample(**json.loads(line))) for line in lines)
        self._basis = load_file(self.folder / "basis.safetensors")
        spectrum = load_file(self.folder / "spectrum.safetensors")
        curvature = [spectrum[name].flatten() for name in self.settings.layers]
        self._scale = 1 / torch.cat([each + damping * each.mean().clamp(min=1e-30) for each in curvature])

    def query(self, lm: LanguageModel, prompt: str, answer: str) -> TextInfluence:
        """The influence of each training text on each token of an answer.

        `influence(text, token) = gradient(token)^T (curvature + damping)^-1 gradient(text)`, with gradients of minus
        log-probabilities: to first order, how much training more on the text adds to the token's log-probability.

        Args:
            lm: The model that the index was made with.
            prompt: What comes before the answer.
            answer: The answer.

        Raises:
            InvalidValue: the model has other weights.
            EmptyTarget: the answer has no token.
        """
        there, here = self.settings.weights, weights_hash(lm.model)
        if there != here and not {there, here} & {each for each in UNKNOWN if each}:
            raise InvalidValue(
                "the model has other weights than the one that the index was made with; build a new index"
            )
        ids, labels = encoded(lm, TextExample(prompt, answer))
        places = [i for i, label in enumerate(labels) if label != IGNORED]
        gradients = LayerGradients(lm, linear_parameters(lm, self.settings.layers))
        rows = [(ids, [label if i == place else IGNORED for i, label in enumerate(labels)]) for place in places]
        size = self.settings.batch_size
        with lm.evaluating():
            parts = [self._scores(lm, gradients, rows[i : i + size]) for i in range(0, len(rows), size)]
        scores = np.concatenate(parts)
        return TextInfluence(prompt, tuple(lm.decode([ids[i]]) for i in places), scores, self.texts)

    def _scores(
        self, lm: LanguageModel, gradients: LayerGradients, rows: Sequence[tuple[list[int], list[int]]]
    ) -> np.ndarray:
        """`(rows, texts)`."""
        blocks = gradients.of(batch_of(lm, rows), TokenLoss(lm))
        sides = sides_of(self._basis, self.settings.layers)
        found = vectors({name: each.on(lm.device).applied(blocks[name]) for name, each in sides.items()})
        weighted = (found.cpu().float() * self._scale).numpy()
        return np.concatenate([weighted @ shard.T for shard in self.shards], 1)
