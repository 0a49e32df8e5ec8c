"""Attribution of a language model's answer to its prompt, by gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from llm_attr.attr.base import Attribution
from llm_attr.core.evaluator import priced, shown
from llm_attr.core.game.features import Features
from llm_attr.core.parallel.sharing import share
from llm_attr.core.parallel.team import current_team
from llm_attr.core.shared_context import uncompiled
from llm_attr.errors import InvalidType, UnsupportedMethod, about_prompt
from llm_attr.llm.gradients.answer_score import LOG_PROB, AnswerScore
from llm_attr.llm.gradients.checkpointing import recomputing
from llm_attr.llm.gradients.checks import refuse_broken_graph, warn_of_rounding
from llm_attr.llm.gradients.explained import Explained
from llm_attr.llm.gradients.methods import (
    GradientMethod,
    MethodCall,
    defaults_of,
    is_embedding,
    names,
    refuse_unknown_options,
    sites_of,
    supported,
)
from llm_attr.llm.gradients.noise import gradient_noise, measure_noise, per_token
from llm_attr.llm.gradients.run import ContrastRun, Found, GradientRun, Run
from llm_attr.llm.model.fingerprint import identity
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.precision import Precision, computing, default_for_gradients
from llm_attr.llm.model.tokenizer import TokenizerLike
from llm_attr.llm.prompt.interpretable import InterpretableInput, TokenMap
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.llm.scoring.prompt_game import Asked, PromptGame
from llm_attr.llm.target.answer import Answer, answers_of
from llm_attr.llm.target.generation import GenArgs
from llm_attr.llm.target.scalar import Foil, Scalar, ScalarLike, scalar_of
from llm_attr.llm.text_attribution import TextAttribution

OF_CALL = {"baseline", "token_rows", "gradient_checkpointing", "show_progress"}
"""Arguments of `attribute` that are not the method's own."""

_PLAIN = (bool, int, float, str)
"""Types of options that are stored in a result."""


class LLMGradientAttribution(TextAttribution):
    """Explains which units of a prompt carried a language model's answer, by the gradient of its log-probability.

    Each point of a method's path takes one forward pass for all tokens of the answer, one backward pass for the full
    answer, and one per token. Attributions are summed over the embedding and the tokens of a unit.

    Args:
        attr_method: The method, constructed with the transformers model itself: `IntegratedGradients(model)`, which
            attributes to the embeddings, `LayerIntegratedGradients(model, layer)`, or a NoiseTunnel around one.
        tokenizer: The model's tokenizer; or a `LanguageModel`.

    Raises:
        UnsupportedMethod: the method cannot attribute to activations by gradients.
        NotALanguageModel: the method's forward function is not a causal language model.

    Source: the paper of each method.

    Example:
        >>> method = LayerIntegratedGradients(model, model.get_input_embeddings())  # doctest: +SKIP
        >>> LLMGradientAttribution(method, tokenizer).attribute(inp, target=" Paris")  # doctest: +SKIP
    """

    attr_method: GradientMethod

    def __init__(self, attr_method: Attribution, tokenizer: TokenizerLike | LanguageModel) -> None:
        if not supported(attr_method):
            raise UnsupportedMethod(
                f"LLMGradientAttribution does not support {type(attr_method).__name__}; supported: {', '.join(names())}"
            )
        super().__init__(attr_method, tokenizer)

    def attribute(
        self,
        inp: InterpretableInput | Prompt,
        target: Answer = None,
        gen_args: GenArgs | None = None,
        *,
        scalar: ScalarLike = "log_prob",
        foil: Foil | None = None,
        baseline: int | str | None = None,
        token_rows: bool = True,
        gradient_checkpointing: bool | None = None,
        show_progress: bool = False,
        precision: Precision | None = None,
        **kwargs: Any,
    ) -> LLMAttributionResult | list[LLMAttributionResult]:
        """The attribution of the full answer and of each of its tokens to the features of the input.

        Args:
            inp: `TextTokenInput`, `TextTemplateInput` or a `Prompt`.
            target: See `LLMAttribution.attribute`.
            gen_args: See `LLMAttribution.attribute`.
            scalar: Which quantity of the answer, see `explain`.
            foil: Another answer: explains the evidence for the answer over the foil.
            baseline: The token, or its id, whose embedding replaces absent ones; by default the input's own (the
                `baselines` of a TextTokenInput, the replacement of a Prompt), else pad, else EOS.
            token_rows: False skips the attributions of single tokens, which take a backward pass each.
            gradient_checkpointing: Whether the model's blocks keep only their inputs for the backward pass and
                recompute the rest, for less memory and a third more time; None: only if memory is short.
            show_progress: Whether to show a progress bar on standard error.
            precision: `fp32`, `bf16` or `fp16`: the type of the model's products of matrices, by autocast, with the
                residual stream and the logits in fp32; `weights`: the type of the weights throughout. None: products in
                the type of the weights and sums in fp32, or as your own autocast says.
            **kwargs: The method's own arguments (`n_steps`, `method`, `stdevs`, `internal_batch_size`, ...), with its
                own defaults, except that `sequential_integrated_gradients` takes 5 steps per token and
                `discretized_integrated_gradients` the midpoint of each piece. `baselines` as in Captum: which features
                are present in the baseline, a number or `(1, features)` of 0 and 1; for gradient SHAP `(states,
                features)` to draw from.

        Returns:
            `seq_attr` `(features,)` and `token_attr` `(answer tokens, features)`, in nats; for a list of layers a list
            with a result per layer. With `return_convergence_delta=True` the deltas are in the provenance.

        Raises:
            EmptyTarget: there is no answer to explain.
            ContextTooLong: prompt and answer do not fit into the model's context.
            UnsupportedMethod: the input does not tell which token belongs to which feature.
            UnknownName: there is no such precision.
            InvalidValue: the model cannot compute in the precision.
        """
        of_call = {"baseline": baseline, "token_rows": token_rows, "gradient_checkpointing": gradient_checkpointing}
        of_call["show_progress"] = show_progress
        with computing(self.language_model, precision):
            return self._each([inp], [target], [scalar_of(scalar, foil)], gen_args, of_call, kwargs)[0][0]

    def attribute_scalars(
        self,
        inputs: Sequence[InterpretableInput | Prompt],
        target: Answer | Sequence[Answer],
        scalars: Sequence[Scalar],
        *,
        precision: Precision | None = None,
        **options: Any,
    ) -> list[list[Any]]:
        """See `TextAttribution`."""
        gen_args = options.pop("gen_args", None)
        of_call = {name: options.pop(name) for name in OF_CALL & options.keys()}
        with computing(self.language_model, precision):
            return self._each(inputs, answers_of(target, len(inputs)), scalars, gen_args, of_call, options)

    def _each(
        self,
        inputs: Sequence[InterpretableInput | Prompt],
        targets: Sequence[Answer],
        scalars: Sequence[Scalar],
        gen_args: GenArgs | None,
        of_call: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> list[list[Any]]:
        """For each input the results for each quantity; with a team each process explains some of the inputs."""
        refuse_unknown_options(self.attr_method, options)
        check_call(of_call)
        numbers = range(len(inputs)) if len(inputs) > 1 else [None]
        bound, tokens = [], []
        for number, inp in zip(numbers, inputs, strict=True):
            with about_prompt(number):
                bound.append(self.bound(inp))
                tokens.append(bound[-1].placed(self.language_model))
        prompts, precision = [each.ids for each in tokens], default_for_gradients(self.language_model)
        with self.in_step(prompts, targets, scalars, [of_call, gen_args, options]), torch.inference_mode(False):
            answers, groups = self.answers(prompts, targets, gen_args), together(scalars)

            def found(i: int) -> list[Found]:
                with about_prompt(numbers[i]), computing(self.language_model, precision):
                    each = [[scalars[k] for k in group] for group in groups]
                    return [self._found(tokens[i], answers[i], quantities, of_call, options) for quantities in each]

            team = current_team()
            draws = MethodCall.of(self.attr_method, options)
            several = team is not None and len(inputs) >= team.size and not (draws.is_random and draws.seed is None)
            of_each = share("prompts", len(inputs), found) if several else list(map(found, range(len(inputs))))
        about: dict[str, Any] = {**identity(self.language_model), **({"processes": None} if team is None else {})}
        about["options"] = {name: value for name, value in options.items() if isinstance(value, _PLAIN)}
        with computing(self.language_model, precision):
            return [
                self._results(inp, prompt, answer, scalars, found, about)
                for inp, prompt, answer, found in zip(bound, prompts, answers, of_each, strict=True)
            ]

    def _found(
        self,
        tokens: TokenMap,
        answer: tuple[int, ...],
        scalars: Sequence[Scalar],
        of_call: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Found:
        """What is found of quantities that share their forward passes."""
        run = self.run_for(tokens, answer, scalars, of_call.get("baseline"), options)
        warn_of_rounding(self.attr_method, self.language_model.dtype)
        recompute = run.strategy.recomputes(of_call.get("gradient_checkpointing"))
        memory = recomputing(self.language_model) if recompute else nullcontext()
        bar = shown(self.title) if of_call.get("show_progress") else nullcontext()
        token_rows = bool(of_call.get("token_rows", True))
        price = priced(self.title, lambda _: ", or ".join(quicker(run, token_rows)))
        with uncompiled(), self.language_model.evaluating(), memory, bar, price:
            refuse_broken_graph(self.language_model)
            measure_noise(self.language_model, run.tokens.ids, run.answer)
            explained = run.explained(token_rows, recompute)
        return Found.gathered(run, explained)

    def run_for(
        self,
        tokens: TokenMap,
        answer: tuple[int, ...],
        scalars: Sequence[Scalar],
        baseline: int | str | None,
        options: Mapping[str, Any],
        score: type[AnswerScore] = AnswerScore,
        forward_mode: bool = True,
        **more: Any,
    ) -> Run:
        """What explains one answer to one prompt.

        Args:
            tokens: The tokens of the prompt and their units.
            answer: Token ids of the answer.
            scalars: Quantities of it that share their forward passes.
            baseline: The token that replaces absent ones.
            options: The method's own arguments.
            score: The class of the scores: of the model, or of counts.
            forward_mode: Whether forward mode may be used where it is quicker.
            **more: Further arguments of the method's `attribute_problem`.

        Raises:
            LlmAttrError: as in `attribute`.
        """
        refuse_unknown_options(self.attr_method, options)
        lm = self.language_model
        lm.check_length(len(tokens.ids), len(answer))
        bound = [scalar.bound(lm, answer, tokens.ids) for scalar in scalars]
        call = MethodCall.of(self.attr_method, options, **more)

        def run(answer: tuple[int, ...], quantities: Sequence[Scalar]) -> GradientRun:
            return GradientRun(call, lm, tokens, answer, baseline, quantities, score, forward_mode)

        contrast = bound[0].contrast
        if contrast is None or is_embedding(sites_of(self.attr_method, lm), lm):
            return run(answer, bound)
        if not call.is_linear:
            raise UnsupportedMethod(
                f"{self.attr_method.get_name()} is not linear in what it explains, so a contrast with a foil can be "
                "explained only at the embedding layer: leave the layer out"
            )
        lm.check_length(len(tokens.ids), len(contrast.foil))
        return ContrastRun(run(answer, [LOG_PROB]), run(contrast.foil, [LOG_PROB]), bound[0])

    def _results(
        self,
        inp: InterpretableInput,
        prompt: Sequence[int],
        answer: tuple[int, ...],
        scalars: Sequence[Scalar],
        found: Sequence[Found],
        about: Mapping[str, Any],
    ) -> list[Any]:
        """For each quantity its result; for a list of layers a list of them."""
        results: dict[int, Any] = {}
        several = isinstance(getattr(self.attr_method, "layer", None), list | tuple)
        for group, each in zip(together(scalars), found, strict=True):
            for place, explained in zip(group, each.explained, strict=True):
                scalar = scalars[place].bound(self.language_model, answer, prompt)
                known = {**self._about(inp, each, scalar), **about, **explained.deltas}
                game = self._game(inp, prompt, answer, scalar)
                of_layers = self._of_layers(inp, prompt, answer, each.log_probs, explained, known, game)
                results[place] = of_layers if several else of_layers[0]
        return [results[place] for place in range(len(scalars))]

    def _of_layers(
        self,
        inp: InterpretableInput,
        prompt: Sequence[int],
        answer: tuple[int, ...],
        log_probs: Tensor,
        explained: Explained,
        about: dict[str, Any],
        game: PromptGame | None,
    ) -> list[LLMAttributionResult]:
        """A result per layer."""
        if explained.completeness is not None:
            about["completeness"] = explained.completeness.to_dict()
        return [
            self.result(
                inp,
                prompt,
                answer,
                log_probs,
                {**about, "layer": layer, "noise": per_token(about["noise"], whole, len(answer))},
                game,
                seq_attr=inp.format_attr(whole[None])[0],
                token_attr=None if tokens is None else inp.format_attr(tokens),
                stderr=None if errors is None else inp.format_attr(errors[None])[0],
                token_stderr=None if token_errors is None else inp.format_attr(token_errors),
            )
            for layer, whole, tokens, errors, token_errors in zip_longest(
                self._layers(), explained.whole, explained.tokens, explained.errors, explained.token_errors
            )
        ]

    def _game(
        self, inp: InterpretableInput, prompt: Sequence[int], answer: tuple[int, ...], scalar: Scalar
    ) -> PromptGame | None:
        """What judges the attributions; None if the input does more than copy them."""
        columns = inp.feature_of_value()
        if columns is None:
            return None
        features = Features.single((inp.to_tensor(),))
        return PromptGame(Asked(self.language_model, inp, features, tuple(prompt), answer, scalar), columns)

    def noise(self, scalar: Scalar) -> float | None:
        """Relative to the attributions, see `measure_noise`; None in fp32."""
        return gradient_noise(self.language_model)

    def _layers(self) -> list[str]:
        """The names of the layers that move, as far as they are the model's."""
        names = {module: name for name, module in self.language_model.layers.items()}
        return [names.get(site.layer, str(site)) for site in sites_of(self.attr_method, self.language_model)]

    def _about(self, inp: InterpretableInput, found: Found, scalar: Scalar) -> dict[str, Any]:
        return self.provenance(inp, scalar, found.cost) | {
            "per_input": not self.attr_method.multiplies_by_inputs,
            "method_seed": found.seed,
            "baseline": None if found.baseline is None else self.language_model.decode([found.baseline]),
            "processes": found.processes,
        }


def check_call(of_call: Mapping[str, Any]) -> None:
    """Checks the flags of a call.

    Raises:
        InvalidType: `token_rows`, `gradient_checkpointing` or `show_progress` is not a bool (the second may be None).
    """
    for name in ("token_rows", "gradient_checkpointing", "show_progress"):
        given = of_call.get(name, False)
        if not isinstance(given, bool) and not (given is None and name == "gradient_checkpointing"):
            raise InvalidType(f"{name} must be True or False; got {given!r}")


def together(scalars: Sequence[Scalar]) -> list[list[int]]:
    """The places of quantities in groups that share their forward passes: a contrast has passes of its own."""
    shared = [place for place, scalar in enumerate(scalars) if scalar.foil is None]
    alone = [[place] for place, scalar in enumerate(scalars) if scalar.foil is not None]
    return [shared, *alone] if shared else alone


FEW = 5
"""Numbers of steps or samples up to this are not worth reducing."""


def quicker(run: Run, token_rows: bool) -> list[str]:
    """Suggests options with which a run takes less time."""
    call, rows = run.call, token_rows and len(run.answer) > 1
    chosen = defaults_of(call.method) | call.options
    numbers = {name: chosen[name] for name in ("n_steps", "n_samples", "nt_samples") if name in chosen}
    many = [f"a smaller {name} (it is {number})" for name, number in numbers.items() if number > FEW]
    units = rows and run.strategy.forward_rule(len(run.scalars)) is not None
    return [
        *(["token_rows=False, which leaves out the row of each token"] if rows else []),
        *(["larger units"] if units else []),
        *(["a larger until"] if chosen.get("until") is not None else many),
        *(["integrated_gradients, one path for all tokens"] if call.inner.by_position else []),
        *(["input_x_gradient, of one pass"] if numbers else []),
    ] or ["a shorter prompt or answer"]
