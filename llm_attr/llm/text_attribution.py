"""What attributions of a generated answer have in common, whatever the method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from llm_attr.attr.base import Attribution
from llm_attr.core.parallel.region import in_step
from llm_attr.core.parallel.sharing import fingerprint
from llm_attr.core.parallel.team import current_team
from llm_attr.core.registry import snake_case
from llm_attr.errors import InvalidType, about_prompt
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.model.fingerprint import additions, holders, identity
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.precision import Precision, described
from llm_attr.llm.model.tokenizer import TokenizerLike
from llm_attr.llm.prompt.alignment import pieces, token_spans
from llm_attr.llm.prompt.interpretable import InterpretableInput, TextTokenInput
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.llm.scoring.prompt_game import PromptGame
from llm_attr.llm.scoring.strategy import noise_of
from llm_attr.llm.target.answer import Answer, answer_ids, share_answers
from llm_attr.llm.target.generation import GenArgs
from llm_attr.llm.target.scalar import Scalar

NOISY = {"log_prob": 1.0, "contrast": 2**0.5}
"""The quantities whose rounding is known, in multiples of that of a log-probability."""


class TextAttribution(Attribution, ABC):
    """A method that explains a language model's answer to a prompt.

    Args:
        attr_method: The method, made for the transformers model itself.
        tokenizer: The model's tokenizer; or a `LanguageModel`.

    Raises:
        NotALanguageModel: the method's forward function is not a causal language model.
    """

    def __init__(self, attr_method: Attribution, tokenizer: TokenizerLike | LanguageModel) -> None:
        super().__init__(attr_method.forward_func)
        self.attr_method = attr_method
        self.language_model = (
            tokenizer if isinstance(tokenizer, LanguageModel) else LanguageModel(self.forward_func, tokenizer)
        )

    @abstractmethod
    def attribute_scalars(
        self,
        inputs: Sequence[InterpretableInput | Prompt],
        target: Answer | Sequence[Answer],
        scalars: Sequence[Scalar],
        *,
        precision: Precision | None = None,
        **options: Any,
    ) -> list[list[Any]]:
        """For each input, the attributions of several quantities of its answer.

        Args:
            inputs: Each as in `attribute`.
            target: A common target, or a list with one per input.
            scalars: The quantities that are explained.
            precision: In which the model computes, see `explain`.
            **options: The other arguments of `attribute`, common to all inputs.

        Raises:
            InvalidShape: the list of targets has another length.
            LlmAttrError: as in `attribute`; the message names the input.
        """

    @property
    def method_name(self) -> str:
        """The name of the method in `explain`."""
        return snake_case(type(self.attr_method).__name__)

    @property
    def title(self) -> str:
        """The name of the work in progress bars and warnings."""
        return f"{self.attr_method.get_name()} attribution"

    def bound(self, inp: InterpretableInput | Prompt) -> InterpretableInput:
        """The input, bound to this model.

        Raises:
            InvalidType: it is neither a Prompt nor an InterpretableInput.
        """
        if isinstance(inp, Prompt):
            inp = inp.bind(self.language_model)
        if not isinstance(inp, InterpretableInput):
            raise InvalidType(f"inp must be an InterpretableInput or a Prompt; got {type(inp).__name__}")
        return inp

    @contextmanager
    def in_step(
        self, prompts: Sequence[Sequence[int]], target: Any, scalars: Sequence[Scalar], options: Any
    ) -> Iterator[None]:
        """Keeps processes in step that share this explanation, or hold the model together.

        Args:
            prompts: Token ids of each prompt.
            target: The answers.
            scalars: The quantities that are explained.
            options: The options of the explanation.

        Raises:
            OutOfStep: the processes have different arguments.
        """
        with in_step(holders(self.language_model.model)):
            team = current_team()
            if team is not None:
                known = identity(self.language_model)
                parts = {
                    "model": fingerprint(known["weights"], known["tokenizer"]),
                    "prompts": fingerprint([list(prompt) for prompt in prompts]),
                    "target": fingerprint(target),
                    "scalars": fingerprint([scalar.name for scalar in scalars]),
                    "options": fingerprint(self.method_name, options),
                    "hooks and adapters": fingerprint(additions(self.language_model.model)),
                    "precision": described(self.language_model),
                }
                team.refuse_differences(self.title, parts)
            yield

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Answer],
        gen_args: GenArgs | None,
        check: Callable[[], None] = lambda: None,
    ) -> list[tuple[int, ...]]:
        """The token ids of each prompt's answer; given ones are checked before others are generated.

        Args:
            prompts: Token ids of each prompt.
            targets: The answers.
            gen_args: Arguments of `generate`.
            check: Called before each answer.
        """
        lm = self.language_model

        def answer(i: int) -> tuple[int, ...]:
            check()
            with about_prompt(i if len(prompts) > 1 else None):
                return answer_ids(lm, prompts[i], targets[i], gen_args)

        known = {i: answer(i) for i, target in enumerate(targets) if target is not None}
        rest = [i for i in range(len(prompts)) if i not in known]
        generated = share_answers(lm, len(rest), gen_args, lambda k: answer(rest[k]))
        known |= zip(rest, generated, strict=True)
        return [known[i] for i in range(len(prompts))]

    def provenance(self, inp: InterpretableInput, scalar: Scalar, cost: Cost) -> dict[str, Any]:
        """The provenance that every result has."""
        served = self.language_model.served_by is not None
        return {
            "method": self.method_name,
            "attr_target": scalar.name,
            **scalar.about(self.language_model),
            **inp.about(),
            "model": self.language_model.name,
            "dtype": None if served else str(self.language_model.dtype).removeprefix("torch."),
            "precision": "the server's" if served else described(self.language_model),
            "noise": self._agreed_noise(scalar),
            **cost.to_dict(),
            **({"tokens_reused": cost.reused} if served else {}),
        }

    def noise(self, scalar: Scalar) -> float | None:
        """Nats by which rounding moves the score of a token; None where that is unknown."""
        known = noise_of(self.language_model)
        return None if known is None or scalar.name not in NOISY else known.per_token * NOISY[scalar.name]

    def _agreed_noise(self, scalar: Scalar) -> float | None:
        """The largest that a process has measured."""
        own, team = self.noise(scalar), current_team()
        found = [each for each in ([own] if team is None else team.exchange("noise", own)) if each is not None]
        return max(found, default=None)

    def result(
        self,
        inp: InterpretableInput,
        prompt: Sequence[int],
        answer: tuple[int, ...],
        log_probs: Tensor,
        provenance: Mapping[str, Any],
        game: PromptGame | None,
        **attributions: Any,
    ) -> LLMAttributionResult:
        """A result: the attributions and the texts that they belong to.

        Args:
            inp: The prompt and its units.
            prompt: Token ids of the prompt.
            answer: Token ids of the answer.
            log_probs: `(answer tokens,)` after the full prompt, in nats.
            provenance: How the result was made.
            game: Scores further coalitions of the units.
            **attributions: Further fields of the result.
        """
        text, spans = token_spans(self.language_model.tokenizer, answer, prompt)
        shown = inp.token_texts() if isinstance(inp, TextTokenInput) else [str(value) for value in inp.values]
        return LLMAttributionResult(
            input_tokens=shown,
            output_tokens=pieces(text, spans),
            output_probs=log_probs.exp(),
            inp=inp,
            output_ids=answer,
            output_text=text,
            output_spans=spans,
            provenance=provenance,
            game=game,
            **attributions,
        )
