"""`ServedModel`: a model behind an endpoint, in the place of one in this process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.errors import InvalidValue, NotALanguageModel
from llm_attr.llm.engines.calibration import Calibration, calibrate
from llm_attr.llm.engines.endpoint import Endpoint
from llm_attr.llm.engines.remote_scorer import RemoteScorer
from llm_attr.llm.engines.sampling import sampling
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import TokenizerLike, encode
from llm_attr.llm.scoring.engine import ScoreEngine
from llm_attr.llm.scoring.stored import StoredReadings


class ServedModel(LanguageModel):
    """A model that is reached through an endpoint; made by `llm_attr.connect`.

    It takes the place of a `LanguageModel` wherever answers are generated or scored. Gradients, `absence="mask"` and
    scalars that are read from logits need a model in this process and are refused.

    Args:
        endpoint: What is asked.
        tokenizer: The served model's tokenizer.
        calibrated: Whether its scores are checked first.

    Attributes:
        endpoint: What is asked.
        calibration: The check; None if there was none.

    Raises:
        EngineRefused: the scores are not those of the tokens that it generates.
    """

    def __init__(self, endpoint: Endpoint, tokenizer: TokenizerLike, calibrated: bool = True) -> None:
        super().__init__(_Absent(endpoint, tokenizer), tokenizer, endpoint.name)
        self.endpoint = endpoint
        checks = calibrated and endpoint.capabilities.calibrates
        self.calibration: Calibration | None = calibrate(endpoint, self) if checks else None
        probe = {} if self.calibration is None else {"probe": self.calibration.fingerprint}
        self.served_by = {**endpoint.about, **probe}

    @property
    def context_length(self) -> int | None:
        """The most positions, if the endpoint says it."""
        return self.endpoint.context_length

    def score_engine(self, cached: bool, most: int | None, stored: StoredReadings | None) -> ScoreEngine:
        """See `HasEngine`.

        Raises:
            InvalidValue: every variant is to be scored without a cache, which an endpoint decides by itself.
        """
        if not cached:
            raise InvalidValue("use_cached_outputs=False: the server decides whether it uses its prefix cache")
        about = self.endpoint.about
        how = " ".join(str(about[name]) for name in ("engine", "address", "served") if about.get(name))
        checked = "not calibrated" if self.calibration is None else self.calibration.in_words
        return RemoteScorer(self, self.endpoint, f"{how} ({checked})", most, stored)


class _Absent(nn.Module):
    """Generates through an endpoint; has no weights and no forward pass."""

    def __init__(self, endpoint: Endpoint, tokenizer: TokenizerLike) -> None:
        super().__init__()
        self._endpoint, self._tokenizer = endpoint, tokenizer
        self.device = torch.device("cpu")

    def forward(self, *_: Any, **__: Any) -> Any:
        raise NotALanguageModel("the model is behind an engine: it has no forward pass here")

    def get_input_embeddings(self) -> nn.Module:
        raise NotALanguageModel("the model is behind an engine: it has no embeddings here")

    def generate(self, ids: Tensor, **arguments: Any) -> Tensor:
        """`(1, prompt and new tokens)`."""
        prompt = ids[0].tolist()
        done = self._endpoint.generate(prompt, sampling(arguments))
        new = encode(self._tokenizer, done.text, special_tokens=False) if done.ids is None else done.ids
        return torch.tensor([[*prompt, *new]], dtype=torch.long, device="cpu")
