"""The requests and answers of the dialects that the server speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_attr.errors import InvalidValue
from llm_attr.serve.answering import Answering, Generation
from llm_attr.serve.faults import Faults


def sglang(answering: Answering, faults: Faults, body: Mapping[str, Any]) -> Any:
    """`POST /generate`: scores with `logprob_start_len` if no new token is asked for, else generates.

    Raises:
        InvalidValue: the request is not understood.
    """
    given = body.get("input_ids")
    if not isinstance(given, list) or not given:
        raise InvalidValue("input_ids must be token ids, or a list of them")
    several = isinstance(given[0], list)
    rows: list[list[int]] = given if several else [given]
    sampling = dict(body.get("sampling_params") or {})
    if sampling.get("max_new_tokens") == 0:
        parts = _scored_by_sglang(answering, faults, rows, body.get("logprob_start_len"))
    else:
        options = sampling | {"max_tokens": sampling.get("max_new_tokens", 128), "seed": sampling.get("sampling_seed")}
        parts = [_generated_by_sglang(answering.generate(row, options)) for row in rows]
    return parts if several else parts[0]


def _scored_by_sglang(answering: Answering, faults: Faults, rows: list[list[int]], start: Any) -> list[dict[str, Any]]:
    starts = list(start) if isinstance(start, list) else [int(start or 0)] * len(rows)
    scores, shared = answering.score(rows, [one + 1 for one in starts])
    parts = []
    for row, one, values, known in zip(rows, starts, scores, shared, strict=True):
        spoiled = faults.spoiled(row, values, one + 1)
        pairs = zip(spoiled, row[one + 1 :], strict=False)
        entries = [[None, row[one], None], *([value, token, None] for value, token in pairs)]
        about = {"input_token_logprobs": entries, "cached_tokens": known, "prompt_tokens": len(row)}
        parts.append({"text": "", "meta_info": about})
    return parts


def _generated_by_sglang(done: Generation) -> dict[str, Any]:
    entries = [[value, token, None] for value, token in zip(done.log_probs, done.ids, strict=True)]
    return {"text": done.text, "meta_info": {"output_token_logprobs": entries, "cached_tokens": 0}}


def completions(answering: Answering, faults: Faults, body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`POST /v1/completions`: vLLM's `prompt_logprobs`, or `echo`, or a plain completion.

    Raises:
        InvalidValue: the request is not understood.
    """
    lm, prompt = answering.language_model, body.get("prompt")
    given: list[Any] = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    rows = [lm.encode(one, special_tokens=True) if isinstance(one, str) else one for one in given]
    if not all(isinstance(row, list) and row for row in rows):
        raise InvalidValue("prompt must be a text or token ids, or a list of these")
    shared = [0]
    if body.get("prompt_logprobs") is not None or body.get("echo"):
        scores, shared = answering.score(rows, [1] * len(rows))
        spoiled = [_spoiled(faults, row, values) for row, values in zip(rows, scores, strict=True)]
        write = _echoed if body.get("echo") else _with_prompt
        choices = [write(answering, row, values) for row, values in zip(rows, spoiled, strict=True)]
    else:
        choices = [_completed(answering, answering.generate(row, body), body) for row in rows]
    numbered = [{"index": index, **choice, "finish_reason": "length"} for index, choice in enumerate(choices)]
    usage = {"prompt_tokens": sum(map(len, rows)), "prompt_tokens_details": {"cached_tokens": sum(shared)}}
    return {"object": "text_completion", "model": name, "choices": numbered, "usage": usage}


def _spoiled(faults: Faults, row: Sequence[int], values: Sequence[float]) -> list[float | None]:
    """Of a whole prompt; what is missing at the seam is the value of its middle."""
    if faults.name != "none":
        return faults.spoiled(row, values, 1)
    return [None] * len(values)


def _with_prompt(answering: Answering, row: Sequence[int], values: Sequence[float | None]) -> dict[str, Any]:
    lm = answering.language_model
    entries = [
        None if value is None else {str(token): {"logprob": value, "rank": None, "decoded_token": lm.decode([token])}}
        for token, value in zip(row[1:], values, strict=False)
    ]
    return {"text": "", "prompt_logprobs": [None, *entries]}


def _echoed(answering: Answering, row: Sequence[int], values: Sequence[float | None]) -> dict[str, Any]:
    lm = answering.language_model
    about = {"tokens": [lm.decode([token]) for token in row], "token_logprobs": [None, *values]}
    return {"text": lm.decode(list(row)), "logprobs": about}


def _completed(answering: Answering, done: Generation, body: Mapping[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {"text": done.text}
    if body.get("logprobs") is not None:
        tokens = [answering.language_model.decode([token]) for token in done.ids]
        choice["logprobs"] = {"tokens": tokens, "token_logprobs": done.log_probs}
    if body.get("return_token_ids"):
        choice["token_ids"] = done.ids
    return choice
