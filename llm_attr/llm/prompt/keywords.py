"""Unknown keywords, and where they belong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from transformers import GenerationConfig

from llm_attr.errors import UnknownKeyword
from llm_attr.llm.prompt.prompt import Prompt


def refuse_unknown(where: str, given: Iterable[str], accepted: Iterable[str]) -> None:
    """Refuses unknown keywords, with a hint where they belong.

    Raises:
        UnknownKeyword: `given` has a keyword that is not in `accepted`.
    """
    if unknown := set(given) - set(accepted):
        raise UnknownKeyword(where, unknown, accepted, {name: _BELONGS[name] for name in unknown & _BELONGS.keys()})


_BELONGS = {
    **{name: f"gen_args={{{name!r}: ...}}" for name in GenerationConfig().to_dict() if not name.startswith("_")},
    **{field.name: f"Prompt(..., {field.name}=...)" for field in fields(Prompt)},
    **{name: f"load_model(..., {name}=...)" for name in ("device_map", "dtype", "torch_dtype", "revision")},
    "documents": "Prompt.from_documents(question, documents)",
    "messages": "the messages as the prompt",
    "system": "a message of the role 'system', or Prompt.from_documents(..., system=...)",
    "tools": "Prompt.from_trace(messages, tools=...)",
}
"""Where keywords of other calls belong."""
