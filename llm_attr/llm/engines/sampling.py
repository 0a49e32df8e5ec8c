"""Arguments of transformers' `generate` as options of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from llm_attr.errors import InvalidValue, UnknownKeyword

ACCEPTED = {"max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "stop_strings", "tokenizer", "pad_token_id"}
"""Arguments of `generate` that an endpoint can be asked for; the last two say nothing to it."""


def sampling(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request from arguments of `model.generate`.

    With `do_sample` the seed is drawn from torch's generator.

    Raises:
        InvalidValue: there is a GenerationConfig.
        UnknownKeyword: an argument cannot be sent to a server.
    """
    if "generation_config" in arguments:
        raise InvalidValue(f"an engine takes gen_args as a dict; accepted: {', '.join(sorted(ACCEPTED))}")
    given = {name: value for name, value in arguments.items() if value is not None}
    if given.keys() - ACCEPTED:
        raise UnknownKeyword("gen_args of an engine", given.keys() - ACCEPTED, ACCEPTED)
    options: dict[str, Any] = {"max_tokens": given.get("max_new_tokens", 25), "temperature": 0.0}
    if given.get("do_sample"):
        options["temperature"] = float(given.get("temperature", 1.0))
        options["seed"] = int(torch.randint(1 << 31, (), device="cpu"))
        options |= {name: given[name] for name in ("top_p", "top_k") if name in given}
    if "stop_strings" in given:
        options["stop"] = given["stop_strings"]
    return options
