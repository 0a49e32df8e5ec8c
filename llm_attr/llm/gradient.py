"""Attribution of a language model's answer to its prompt, by gradients."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llm_attr.attr.base import Attribution
from llm_attr.core.registry import snake_case
from llm_attr.errors import InvalidType, UnsupportedMethod
from llm_attr.llm.alignment import pieces, token_spans
from llm_attr.llm.bound import BoundPrompt
from llm_attr.llm.gradient_methods import names, supported
from llm_attr.llm.gradient_run import GradientRun
from llm_attr.llm.identity import identity
from llm_attr.llm.inputs import InterpretableInput, TextTokenInput
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.prompt import Prompt
from llm_attr.llm.recompute import is_short_of_memory, recomputing
from llm_attr.llm.result import LLMAttributionResult
from llm_attr.llm.target import Answer, answer_ids


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
        baseline: int | str | None = None,
        token_rows: bool = True,
        gradient_checkpointing: bool | None = None,
        **kwargs: Any,
    ) -> LLMAttributionResult | list[LLMAttributionResult]:
        """The attribution of the whole answer and of each of its tokens to the features of the input.

        Args:
            inp: `TextTokenInput`, `TextTemplateInput` or a `Prompt`.
            target: See `LLMAttribution.attribute`.
            gen_args: See `LLMAttribution.attribute`.
            baseline: The token, or its id, whose embedding stands for an absent one; by default that of the input (for
                a TextTokenInput its `baselines`, for a Prompt its replacement), else pad, else EOS.
            token_rows: False leaves out the attribution of each token, which takes a backward pass for each.
            gradient_checkpointing: Whether the blocks of the model keep only their inputs for the backward pass and
                compute the rest again, which takes less memory and a third more time; None: where memory is short.
            **kwargs: The method's own arguments (`n_steps`, `method`, `stdevs`, `internal_batch_size`, ...).

        Returns:
            `seq_attr` `(features,)` and `token_attr` `(answer tokens, features)`, in nats; for a list of layers a
            list with a result for each. With `return_convergence_delta=True` the deltas are in its provenance.

        Raises:
            EmptyTarget: there is no answer to explain.
            ContextTooLong: prompt and answer do not fit into the model's context.
            UnsupportedMethod: the input does not tell which token belongs to which feature.
        """
        if isinstance(inp, Prompt):
            inp = inp.bind(self.language_model)
        if not isinstance(inp, InterpretableInput):
            raise InvalidType(f"inp must be an InterpretableInput or a Prompt; got {type(inp).__name__}")
        placed = inp.placed(self.language_model)
        answer = answer_ids(self.language_model, placed.ids, target, gen_args)
        self.language_model.check_length(len(placed.ids), len(answer))
        run = GradientRun(self.attr_method, self.language_model, placed, answer, baseline, kwargs)
        if gradient_checkpointing is None:
            gradient_checkpointing = is_short_of_memory(self.language_model, len(placed.ids) + len(answer))
        memory = recomputing(self.language_model) if gradient_checkpointing else nullcontext()
        with self.language_model.evaluating(), memory:
            found = run.layers(token_rows)
        results = [self._result(inp, run, *one) for one in found]
        return results if isinstance(getattr(self.attr_method, "layer", None), list | tuple) else results[0]

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
                "attr_target": "log_prob",
                "unit": inp.unit if isinstance(inp, BoundPrompt) else "feature",
                "model": self.language_model.name,
                "dtype": str(self.language_model.model.dtype).removeprefix("torch."),
                "baseline": self.language_model.decode([run.baseline]),
                **run.deltas,
                **asdict(run.counter),
                **identity(self.language_model),
            },
        )
