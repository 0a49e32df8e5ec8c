"""The JSON schema of citations, by pydantic."""

from __future__ import annotations

from typing import Any

from llm_attr.errors import MissingExtra


def json_schema() -> dict[str, Any]:
    """The JSON schema of `Citations.to_dict`.

    Raises:
        MissingExtra: pydantic is not installed.
    """
    schema: dict[str, Any] = models()["Citations"].model_json_schema(by_alias=True)
    return schema


def models() -> dict[str, Any]:
    """The pydantic models, by name: `Citations`, `Sentence` and `Source`.

    Raises:
        MissingExtra: pydantic is not installed.
    """
    try:
        from pydantic import ConfigDict, Field, create_model
    except ImportError as error:
        raise MissingExtra("pydantic", "citations") from error
    strict = ConfigDict(extra="forbid", title=None)
    place: Any = (int, Field(ge=0))
    source = create_model(
        "Source", __config__=strict, id=(str, ...), start=place, end=place, text=(str, ...), nats=(float, ...),
        share=(float, Field(ge=0, le=1)), stderr=(float | None, None),
    )  # fmt: skip
    sentence = create_model(
        "Sentence", __config__=strict, text=(str, ...), start=place, end=place, supported=(bool, ...),
        sources=(list[source], ...), context=(float | None, None), reason=(str, ""),  # type: ignore[valid-type]
    )  # fmt: skip
    version: Any = (int, Field(alias="schema", ge=1, le=1))
    citations = create_model(
        "Citations", __config__=strict, version=version, answer=(str, ...),
        sentences=(list[sentence], ...), documents=(dict[str, str], ...), question=(str, ""),  # type: ignore[valid-type]
        provenance=(dict[str, Any], Field(default_factory=dict)),
    )  # fmt: skip
    return {"Citations": citations, "Sentence": sentence, "Source": source}
