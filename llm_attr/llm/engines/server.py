"""`ServerEndpoint`: an endpoint that is a server with one of the dialects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Event
from typing import Any

from llm_attr.errors import EngineFailed
from llm_attr.llm.engines.dialect import Dialect
from llm_attr.llm.engines.endpoint import Completion, Endpoint, Scored
from llm_attr.llm.engines.http import HttpClient
from llm_attr.llm.scoring.prefix_tree import Query


class ServerEndpoint(Endpoint):
    """Asks a server in its dialect.

    Args:
        dialect: The dialect.
        client: Sends the requests.
        model: The model's name at the server; None: the first one that it serves.
        in_flight: How many requests are sent at a time.
        per_request: How many prompts a request holds at most.
        price: See `Endpoint`.

    Raises:
        EngineFailed: the server does not answer, or serves no such model.
    """

    def __init__(
        self,
        dialect: Dialect,
        client: HttpClient,
        model: str | None = None,
        in_flight: int = 8,
        per_request: int = 8,
        price: float | None = None,
    ) -> None:
        self._dialect, self.client = dialect, client
        self.in_flight, self.per_request, self.price = in_flight, per_request, price
        self.capabilities = dialect.capabilities
        served = self._served()
        known = next((each for each in served if model in (None, each.get("id"))), None)
        if known is None:
            names = ", ".join(str(each.get("id")) for each in served) or "none"
            raise EngineFailed(f"{client.root} serves no model {model!r}; it serves {names}")
        self.name, length = str(known.get("id")), known.get("max_model_len")
        self.context_length = int(length) if length else None

    @property
    def about(self) -> Mapping[str, Any]:
        """See `Endpoint`."""
        return {"engine": self._dialect.name, "address": self.client.root, "served": self.name}

    def score(self, queries: Sequence[Query], stop: Event | None = None) -> list[Scored]:
        """See `Endpoint`."""
        answer = self.client.post(self._dialect.path, self._dialect.scoring(self.name, queries), stop)
        return self._dialect.scored(answer, queries)

    def generate(self, prompt: Sequence[int], options: Mapping[str, Any], log_probs: bool = False) -> Completion:
        """See `Endpoint`."""
        asked = self._dialect.generating(self.name, prompt, options, log_probs)
        return self._dialect.generated(self.client.post(self._dialect.path, asked))

    def _served(self) -> list[Mapping[str, Any]]:
        answer = self.client.get("/v1/models")
        data = answer.get("data") if isinstance(answer, Mapping) else None
        return [each for each in data or () if isinstance(each, Mapping)]
