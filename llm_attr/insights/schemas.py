"""What the server accepts: version 1 of its requests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TEXT = 400_000
"""The most characters of a text."""

Text = Annotated[str, Field(max_length=TEXT)]
Name = Annotated[str, Field(max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Message(_Strict):
    """A message of a chat."""

    role: Name
    content: Text


class Options(_Strict):
    """Options of the methods; those that name files or functions are not accepted from a page."""

    n_samples: Annotated[int, Field(ge=1, le=100_000)] | None = None
    seed: int | None = None
    until: float | Name | None = None
    budget: int | Name | None = None
    n_steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    perturbations_per_eval: Annotated[int, Field(ge=1, le=4096)] | None = None

    def given(self) -> dict[str, Any]:
        """Those that are set."""
        return self.model_dump(exclude_none=True)


class Input(_Strict):
    """A prompt: a text, the messages of a chat, or documents with a question (the `prompt`)."""

    version: Literal[1] = 1
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)] | None = None
    documents: Annotated[dict[Name, Text], Field(min_length=1, max_length=1000)] | None = None
    unit: Name | None = None
    absence: Literal["delete", "replace", "mask"] = "delete"

    @model_validator(mode="after")
    def _one_prompt(self) -> Input:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if self.documents is not None and self.prompt is None:
            raise ValueError("documents need a prompt, the question about them")
        return self


class Generate(Input):
    """A request for the model's answer."""

    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 25


class Explain(Generate):
    """A request for an explanation; see `llm_attr.explain` for the arguments."""

    target: Text | None = None
    method: Name = "feature_ablation"
    scalar: Name = "log_prob"
    foil: Text | None = None
    region: Text | None = None
    options: Options = Options()


class Trace(_Strict):
    """A trace of another program: the messages of the OpenAI API, or spans of OpenInference."""

    version: Literal[1] = 1
    trace: Any
