"""The engine of a language model."""

from __future__ import annotations

from typing import Any

from llm_attr.core.evaluator import Progress, watching
from llm_attr.insights.engine import Controls, Explained
from llm_attr.insights.schemas import Explain, Generate, Input
from llm_attr.llm.cost.plan import plan
from llm_attr.llm.explain import explain
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.speed import speed_of
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.request import methods
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.llm.target.generation import DEFAULT_GENERATION, generate
from llm_attr.viz.text.page import fragment, to_html
from llm_attr.viz.text.script import is_live, numbers

_UNITS = ("word", "sentence", "paragraph", "token", "message", "document")


class ModelEngine:
    """Answers and explains with one model.

    Args:
        language_model: Model and tokenizer.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.language_model, self.name = language_model, language_model.name
        self._has_chat = bool(getattr(language_model.tokenizer, "chat_template", None))

    def about(self) -> dict[str, Any]:
        """See `Engine.about`."""
        return {"model": self.name, "chat": self._has_chat, "units": list(_UNITS), "methods": methods()}

    def warm_up(self) -> None:
        """Measures the speed of the model, so that plans need no passes."""
        speed_of(self.language_model, backward=False)

    def units(self, asked: Input) -> dict[str, Any]:
        """See `Engine.units`."""
        bound = self._prompt(asked).bind(self.language_model)
        tokens = len(self.language_model.encode(bound.text, special_tokens=False))
        return {"units": bound.values, "unit": bound.unit, "tokens": tokens}

    def plan(self, asked: Explain) -> dict[str, Any]:
        """See `Engine.plan`."""
        return plan(self.language_model, self._prompt(asked), **_arguments(asked)).to_dict()

    def generate(self, asked: Generate, controls: Controls) -> dict[str, Any]:
        """See `Engine.generate`."""
        bound = self._prompt(asked).bind(self.language_model)
        ids = bound.to_model_input()[0].tolist()
        with self._watching(controls):
            answer = generate(self.language_model, ids, _generation(asked))
        ended = bool(answer) and answer[-1] in self.language_model.end_ids
        return {"text": self.language_model.decode(answer[:-1] if ended else answer), "tokens": len(answer)}

    def explain(self, asked: Explain, controls: Controls) -> Explained:
        """See `Engine.explain`."""
        with self._watching(controls):
            result = explain(self.language_model, self._prompt(asked), **_arguments(asked))
        return explained(result)

    def _watching(self, controls: Controls) -> Any:
        written: list[int] = []
        shown = ""

        def progress(part: Progress) -> None:
            controls.progress(part.done, part.total)

        def token(new: int) -> None:
            nonlocal shown
            if new in self.language_model.end_ids:
                return
            written.append(new)
            text = self.language_model.decode(written)
            whole = text.rstrip("\ufffd")  # the rest of a character comes with the next token
            if len(whole) > len(shown):
                controls.token(whole[len(shown) :])
                shown = whole

        return watching(progress, controls.cancel, tokens=token, enough=controls.enough)

    def _prompt(self, asked: Input) -> Prompt:
        options: dict[str, Any] = {"absence": asked.absence}
        if asked.unit is not None:
            options["unit"] = asked.unit
        if asked.documents is not None:
            return Prompt.from_documents(asked.prompt or "", asked.documents, chat=self._has_chat, **options)
        if asked.messages is not None:
            return Prompt([message.model_dump() for message in asked.messages], **options)
        return Prompt(asked.prompt or "", **options)


def explained(result: LLMAttributionResult) -> Explained:
    """A result as the server keeps it."""
    view = result.view()
    return Explained(
        document=result.to_dict(),
        markup=fragment(view, scripts=False, styles=False),
        numbers=numbers(view) if is_live(view) else None,
        page=to_html(view),
    )


def _generation(asked: Generate) -> dict[str, Any]:
    return {**DEFAULT_GENERATION, "max_new_tokens": asked.max_new_tokens}


def _arguments(asked: Explain) -> dict[str, Any]:
    answer = {"target": asked.target} if asked.target is not None else {"gen_args": _generation(asked)}
    chosen = {"method": asked.method, "scalar": asked.scalar, "foil": asked.foil, "region": asked.region}
    return {**answer, **chosen, **asked.options.given()}
