"""Attribution of a language model's answer to its prompt, by gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llm_attr.attr.base import Attribution
from llm_attr.core.evaluator import shown
from llm_attr.core.registry import snake_case
from llm_attr.errors import InvalidType, UnsupportedMethod
from llm_attr.llm.alignment import pieces, token_spans
from llm_attr.llm.answer_score import AnswerScore
from llm_attr.llm.bound import BoundPrompt
from llm_attr.llm.gradient_methods import names, supported
from llm_attr.llm.gradient_run import GradientRun, refuse_unknown
from llm_attr.llm.identity import identity
from llm_attr.llm.inputs import InterpretableInput, Placed, TextTokenInput
from llm_attr.llm.many import answers_of, for_each
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.precision import warn_of_rounding
from llm_attr.llm.prompt import Prompt
from llm_attr.llm.recompute import recomputing
from llm_attr.llm.result import LLMAttributionResult
from llm_attr.llm.scalar import Foil, Scalar, ScalarLike, scalar_of
from llm_attr.llm.target import Answer, answer_ids

OF_CALL = {"baseline", "token_rows", "gradient_checkpointing", "show_progress"}
"""Arguments of `attribute` that are not the method's own."""


class LLMGradientAttribution(Attribution):
    """Explains which units of a prompt carried a language model's answer, by the gradient of its log-probability.

    Every point of a method's path goes through the model once for all tokens of the answer, with one backward pass for
    the whole answer and one for each token. The embeddings of a unit's tokens are summed.

    Args:
        attr_method: The method, made for the transformers model itself: `IntegratedGradients(model)`, which attributes
            to the embeddings, or `LayerIntegratedGradients(model, layer)`; a NoiseTunnel around one.
        tokenizer: The model's tokenizer.

    Raises:
        UnsupportedMethod: the method takes no gradients at activations.
        NotALanguageModel: the method's forward function is no causal language model.

    Source: the paper of each method.

    Example:
        >>> method = LayerIntegratedGradients(model, model.get_input_embeddings())  # doctest: +SKIP
        >>> LLMGradientAttribution(method, tokenizer).attribute(inp, target=" Paris")  # doctest: +SKIP
    """

    def __init__(self, attr_method: Attribution, tokenizer: PreTrainedTokenizerBase) -> None:
        if not supported(attr_method):
            raise UnsupportedMethod(
                f"LLMGradientAttribution does not support {type(attr_method).__name__}; supported: {', '.join(names())}"
            )
        super().__init__(attr_method.forward_func)
        self.attr_method = attr_method
        self.language_model = LanguageModel(attr_method.forward_func, tokenizer)

    def attribute(
        self,
        inp: InterpretableInput | Prompt,
        target: Answer = None,
        gen_args: Mapping[str, Any] | None = None,
        *,
        scalar: ScalarLike = "log_prob",
        foil: Foil | None = None,
        baseline: int | str | None = None,
        token_rows: bool = True,
        gradient_checkpointing: bool | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> LLMAttributionResult | list[LLMAttributionResult]:
        """The attribution of the whole answer and of each of its tokens to the features of the input.

        Args:
            inp: `TextTokenInput`, `TextTemplateInput` or a `Prompt`.
            target: See `LLMAttribution.attribute`.
            gen_args: See `LLMAttribution.attribute`.
            scalar: Which quantity of the answer, see `explain`.
            foil: Another answer: what speaks for the answer and against the foil is explained.
            baseline: The token, or its id, whose embedding stands for an absent one; by default that of the input (for
                a TextTokenInput its `baselines`, for a Prompt its replacement), else pad, else EOS.
            token_rows: False leaves out the attribution of each token, which takes a backward pass for each.
            gradient_checkpointing: Whether the blocks of the model keep only their inputs for the backward pass and
                compute the rest again, which takes less memory and a third more time; None: where memory is short.
            show_progress: A progress bar on standard error.
            **kwargs: The method's own arguments (`n_steps`, `method`, `stdevs`, `internal_batch_size`, ...).

        Returns:
            `seq_attr` `(features,)` and `token_attr` `(answer tokens, features)`, in nats; for a list of layers a
            list with a result for each. With `return_convergence_delta=True` the deltas are in its provenance.

        Raises:
            EmptyTarget: there is no answer to explain.
            ContextTooLong: prompt and answer do not fit into the model's context.
            UnsupportedMethod: the input does not tell which token belongs to which feature.
        """
        refuse_unknown(self.attr_method, kwargs)
        if isinstance(inp, Prompt):
            inp = inp.bind(self.language_model)
        if not isinstance(inp, InterpretableInput):
            raise InvalidType(f"inp must be an InterpretableInput or a Prompt; got {type(inp).__name__}")
        placed = inp.placed(self.language_model)
        answer = answer_ids(self.language_model, placed.ids, target, gen_args)
        run = self.posed(placed, answer, scalar_of(scalar, foil), baseline, kwargs)
        warn_of_rounding(self.attr_method, self.language_model.model.dtype)
        short = run.recomputes(gradient_checkpointing)
        memory = recomputing(self.language_model) if short else nullcontext()
        bar = shown(f"{self.attr_method.get_name()} attribution") if show_progress else nullcontext()
        with self.language_model.evaluating(), memory, bar:
            found = run.layers(token_rows)
        results = [self._result(inp, run, *one) for one in found]
        return results if isinstance(getattr(self.attr_method, "layer", None), list | tuple) else results[0]

    def posed(
        self,
        placed: Placed,
        answer: tuple[int, ...],
        scalar: Scalar,
        baseline: int | str | None,
        options: Mapping[str, Any],
        score: Callable[..., Any] = AnswerScore,
    ) -> GradientRun:
        """What is asked of the model for one prompt and answer; see `GradientRun`.

        Raises:
            LlmAttrError: as in `attribute`.
        """
        refuse_unknown(self.attr_method, options)
        self.language_model.check_length(len(placed.ids), len(answer))
        bound = scalar.bound(self.language_model, answer)
        return GradientRun(self.attr_method, self.language_model, placed, answer, baseline, bound, options, score)

    def attribute_scalars(
        self,
        inputs: Sequence[InterpretableInput | Prompt],
        target: Answer | Sequence[Answer],
        scalars: Sequence[Scalar],
        **options: Any,
    ) -> list[list[Any]]:
        """For each input what `attribute` gives for each of several quantities of its answer; see `LLMAttribution`."""
        gen_args = options.pop("gen_args", None)

        def each(pair: tuple[InterpretableInput | Prompt, Answer]) -> list[Any]:
            inp = pair[0].bind(self.language_model) if isinstance(pair[0], Prompt) else pair[0]
            answer = answer_ids(self.language_model, inp.placed(self.language_model).ids, pair[1], gen_args)
            return [self.attribute(inp, answer, scalar=scalar, **options) for scalar in scalars]

        refuse_unknown(self.attr_method, {name: options[name] for name in options.keys() - OF_CALL})
        return for_each(each, zip(inputs, answers_of(target, len(inputs)), strict=True))

    def _result(
        self, inp: InterpretableInput, run: GradientRun, whole: Tensor, tokens: Tensor | None
    ) -> LLMAttributionResult:
        text, spans = token_spans(self.language_model.tokenizer, run.answer, run.placed.ids)
        texts = inp.token_texts() if isinstance(inp, TextTokenInput) else [str(value) for value in inp.values]
        return LLMAttributionResult(
            input_tokens=texts,
            output_tokens=pieces(text, spans),
            seq_attr=inp.format_attr(whole[None])[0],
            token_attr=None if tokens is None else inp.format_attr(tokens),
            output_probs=run.log_probs.exp(),
            inp=inp,
            output_ids=run.answer,
            output_text=text,
            output_spans=spans,
            provenance={
                "method": snake_case(type(self.attr_method).__name__),
                "attr_target": run.scalar.name,
                **run.scalar.about(self.language_model),
                "unit": inp.unit if isinstance(inp, BoundPrompt) else "feature",
                "model": self.language_model.name,
                "dtype": str(self.language_model.model.dtype).removeprefix("torch."),
                "per_input": not self.attr_method.multiplies_by_inputs,
                "baseline": self.language_model.decode([run.baseline]) if run.uses_baseline else None,
                **run.deltas,
                **asdict(run.counter),
                **identity(self.language_model),
            },
        )
