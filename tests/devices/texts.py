"""Everything that explains text, on a tiny model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult, Prompt, attr, explain
from llm_attr.llm.concept.steering import steer
from llm_attr.llm.concept.text_tcav import TextTCAV
from llm_attr.robust import MinimalEdit
from tests.devices.cases import Case
from tests.devices.placement import Placement
from tests.zoo import tiny

PROMPT, ANSWER = "Aksel repairs old violins", " He sings"

Halves = tuple[tuple[str, ...], tuple[str, ...]]
LIKE_LLAMA: Halves = (
    ("model.embed_tokens", "model.rotary_emb", "model.layers.0"),
    ("model.layers.1", "model.layers.2", "model.norm", "lm_head"),
)
HALVES: dict[str, Halves] = {
    "llama": LIKE_LLAMA,
    "gemma3": LIKE_LLAMA,
    "gpt2": (
        ("transformer.wte", "transformer.wpe", "transformer.drop", "transformer.h.0"),
        ("transformer.h.1", "transformer.h.2", "transformer.ln_f", "lm_head"),
    ),
    "opt": (
        ("model.decoder.embed_tokens", "model.decoder.embed_positions", "model.decoder.layers.0"),
        ("model.decoder.layers.1", "model.decoder.layers.2", "model.decoder.final_layer_norm", "lm_head"),
    ),
    "mamba": (
        ("backbone.embeddings", "backbone.layers.0"),
        ("backbone.layers.1", "backbone.norm_f", "lm_head"),
    ),
}
"""The submodules that lie on the one device and on the other where a model is divided."""

FAMILY = {"guided_backprop": "opt", "deconvolution": "opt"}
"""The models of methods that need a ReLU."""

OPTIONS: dict[str, dict[str, Any]] = {
    "banzhaf": {"n_samples": 8},
    "context_cite": {"n_samples": 8},
    "kernel_shap": {"n_samples": 10, "seed": 0},
    "lime": {"n_samples": 8, "seed": 0},
    "permutation_shapley": {"n_samples": 2},
    "shapley_value_sampling": {"n_samples": 2, "seed": 0},
    "gradient_shap": {"n_samples": 2, "seed": 0, "token_rows": True},
    "layer_gradient_shap": {"n_samples": 2, "seed": 0, "token_rows": True},
    "noise_tunnel": {"attribution_method": "input_x_gradient", "nt_samples": 2, "seed": 0, "token_rows": True},
    "integrated_gradients": {"n_steps": 2, "token_rows": True},
    "layer_integrated_gradients": {"n_steps": 2, "token_rows": True},
    "discretized_integrated_gradients": {"n_steps": 2, "token_rows": True},
    "sequential_integrated_gradients": {"n_steps": 2, "token_rows": True},
}
"""What makes a method quick and repeatable; one that is not here runs at its defaults."""


def model_at(placement: Placement, family: str = "llama", attention: str | None = None) -> LanguageModel:
    """A tiny model at a placement; its attributions are of the size of one."""
    lm = tiny(family, attention=attention)
    with torch.no_grad():
        for weight in lm.model.parameters():
            weight.mul_(0.5)
    placement.put(lm.model, *HALVES[family])
    return lm


def numbers(result: Any) -> list[Any]:
    """What a result holds; of several what each holds."""
    if isinstance(result, list):
        return [numbers(one) for one in result]
    return [result.seq_attr, result.token_attr, result.stderr]


def explained(
    placement: Placement, family: str = "llama", attention: str | None = None, prompt: Any = PROMPT, **options: Any
) -> Any:
    """What an explanation by words holds."""
    lm = model_at(placement, family, attention)
    unit = None if isinstance(prompt, Prompt) else "word"
    with placement.within():
        return numbers(explain(lm, prompt, **({"unit": unit, "target": ANSWER} | options)))


def case(name: str, covers: tuple[str, ...] = (), **options: Any) -> Case:
    return Case(name, partial(explained, **options), covers)


def of_method(name: str) -> Case:
    return case(name, method=name, family=FAMILY.get(name, "llama"), **OPTIONS.get(name, {}))


def first_logit(logits: Tensor, ids: Tensor) -> Tensor:
    """A function of a whole answer, as users write them."""
    return logits[0, ids[0]] - logits.mean()


def sampled(placement: Placement) -> Any:
    """Whether a seed makes a drawn answer repeatable, and all random streams are as before."""
    lm = model_at(placement)
    before = streams(placement)
    drawn = [
        explain(lm, PROMPT, gen_args={"do_sample": True, "max_new_tokens": 6, "seed": seed}).output_ids
        for seed in (1, 1, 2)
    ]
    return [drawn[0] == drawn[1], drawn[0] == drawn[2], equal(before, streams(placement))]


def planned(placement: Placement) -> Any:
    """What a plan says, which leaves the random streams alone."""
    lm = model_at(placement)
    before = streams(placement)
    plans = [llm_attr.plan(lm, PROMPT, target=ANSWER, unit="word", method=name) for name in ("banzhaf", "saliency")]
    counts = [[one.passes, one.backward, one.positions, one.head_rows] for one in plans]
    return [counts, equal(before, streams(placement))]


def edited(placement: Placement) -> Any:
    """The smallest edits by deletion and under a mask, and their answers."""
    lm, found = model_at(placement), []
    for absence in ("delete", "mask"):
        prompt = Prompt(PROMPT, unit="word", absence=absence)
        options: dict[str, Any] = {"gen_args": {"max_new_tokens": 2, "do_sample": False}, "most": 2}
        edit = MinimalEdit(lm).find(prompt, **options)
        found += [edit.found, *edit.units, edit.log_prob, edit.edited_log_prob, edit.margin, edit.variants]
        found += [float(ord(letter)) for letter in edit.edited_answer]
    return found


def streams(placement: Placement) -> list[Tensor]:
    """The state of every random stream."""
    places = {placement.device, placement.rest or placement.device} - {torch.device("cpu")}
    return [torch.get_rng_state(), *(torch.get_device_module(place).get_rng_state(place) for place in places)]


def equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def stored(placement: Placement) -> Any:
    """A result that was written and read, and its estimate of a part of the answer."""
    lm = model_at(placement)
    result = explain(lm, PROMPT, unit="word", target=ANSWER, method="banzhaf", n_samples=8)
    with TemporaryDirectory() as folder:
        result.save(Path(folder, "result"))
        again = LLMAttributionResult.load(Path(folder, "result"))
    return numbers([again, again.for_output("He")])


def concepts(placement: Placement) -> Any:
    """Concepts given by sentences: activations, directions, scores, significance, and a generation that is moved."""
    lm, found = model_at(placement), list[Any]()
    some, others = ["We regret it.", "It is my duty.", "Kindly note this."], ["Hey you", "No way.", "Bye", "See you!"]
    with placement.within():
        for pool in ("mean", "last"):
            tcav = TextTCAV(lm, [0, 1], pool=pool)
            directions = tcav.directions(some, others, held_out=0)
            found += [tcav.activations(some), tcav.scores([PROMPT], directions, ANSWER, " No")]
            found += [each.weights for each in directions.values()]
        judged = tcav.significance([PROMPT], some, others, ANSWER, runs=3, score="magnitude")
        found += [judged.scores, judged.chance, judged.low, judged.corrected]
        layer = tcav.layers[0]
        texts = steer(lm, PROMPT, layer, directions[layer], (-3, 3), {"max_new_tokens": 3, "do_sample": False}).texts
    return [*found, [float(sum(map(ord, text))) for text in texts]]


def by_captums_classes(placement: Placement) -> Any:
    lm = model_at(placement)
    by_words = attr.LLMAttribution(attr.FeatureAblation(lm.model), lm.tokenizer)
    baselines = (["Ida", "boats"], attr.ProductBaselines([["Ida", "Dave"], ["boats", "mills"]]))
    templates = [attr.TextTemplateInput("{} mends {}", ["Aksel", "it"], baselines=each) for each in baselines]
    layer = attr.LayerIntegratedGradients(lm.model, lm.model.model.embed_tokens)
    by_tokens = attr.LLMGradientAttribution(layer, lm.tokenizer)
    tokens = attr.TextTokenInput(PROMPT, lm.tokenizer)
    results = [by_words.attribute(each, ANSWER) for each in (*templates, tokens)]
    return numbers([*results, by_tokens.attribute(tokens, ANSWER, n_steps=2)])


CAPTUMS = (
    "InterpretableInput", "LLMAttribution", "LLMAttributionResult", "LLMGradientAttribution", "ProductBaselines",
    "TextTemplateInput", "TextTokenInput",
)  # fmt: skip

SEVERAL_LAYERS = ["model.embed_tokens", "model.layers.1"]

CASES = [
    *(of_method(name) for name in llm_attr.methods()),
    *(case(f"family {family}", family=family) for family in HALVES),
    case("eager attention", attention="eager"),
    case("eager attention, gemma3", family="gemma3", attention="eager"),
    case("whole sequences by gradients, mamba", family="mamba", method="input_x_gradient"),
    case("absence by replacement", prompt=Prompt(PROMPT, unit="word", absence="replace")),
    case("absence by mask", prompt=Prompt(PROMPT, unit="word", absence="mask")),
    case("absence by mask, opt", family="opt", prompt=Prompt(PROMPT, unit="word", absence="mask")),
    case("several prompts", prompt=[PROMPT, "Aksel sings"]),
    case("every scalar", scalar=["log_prob", "prob", "logit", "entropy", "kl", "margin", first_logit]),
    case("every scalar by gradients", method="saliency", scalar=["prob", "logit", "entropy", "margin", first_logit]),
    case("foil", foil=" He mends"),
    case("foil by gradients", foil=" He mends", method="input_x_gradient"),
    case("generated answer", target=None, gen_args={"max_new_tokens": 3, "do_sample": False}),
    case("layers on both halves", method="input_x_gradient", layer=SEVERAL_LAYERS),
    case("layer on the second half by rules", method="lrp", layer="model.layers.1"),
    case("a sample until it is sure", method="permutation_shapley", until=0.5, n_samples=8),
    Case("sampled answer", sampled),
    Case("plan", planned),
    Case("minimal edit", edited, ("MinimalEdit", "Edit")),
    Case("stored result", stored),
    Case("concepts of sentences", concepts),
    Case("Captum's classes for text", by_captums_classes, CAPTUMS),
]
