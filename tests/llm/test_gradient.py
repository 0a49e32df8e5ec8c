"""Gradients of generations equal the slow definition: one full run for each token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from llm_attr import LLMAttributionResult, Prompt, explain, plan
from llm_attr.attr import (
    DiscretizedIntegratedGradients,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    NoiseTunnel,
    Saliency,
    SequentialIntegratedGradients,
    TextTemplateInput,
    TextTokenInput,
)
from llm_attr.errors import EmptyTarget, InvalidType, NoGradient, UnknownKeyword, UnsupportedMethod
from llm_attr.llm.gradient import LLMGradientAttribution
from llm_attr.llm.gradients import jacobian as strategies
from llm_attr.llm.model.language_model import LanguageModel
from tests.contract.models import assert_same, state
from tests.llm.generations import EXACT, TARGET, TEXT, assert_close, expected_integrated, explained
from tests.reference import generation_gradient as slow
from tests.zoo import tiny


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama", "byte_bos")


@pytest.mark.parametrize("family", EXACT)
def test_integrated_gradients_of_every_token(family: str) -> None:
    lm = tiny(family, "byte_bos", EXACT[family])
    result = explained(lm, IntegratedGradients(lm.model), n_steps=4)
    expected = expected_integrated(lm, result, 4)
    assert_close(result.token_attr, expected)
    assert_close(result.seq_attr, expected.sum(0))


def test_gradient_times_input_and_saliency(lm: LanguageModel) -> None:
    for method, combine in (
        (InputXGradient(lm.model), lambda x, g: x * g),
        (LayerGradientXActivation(lm.model, lm.model.get_input_embeddings()), lambda x, g: x * g),
        (Saliency(lm.model), lambda x, g: g.abs()),
    ):
        result = explained(lm, method)
        ids = result.inp.inp_tensor[0].tolist()
        rows = [slow.at_prompt(lm.model, ids, result.output_ids, t, combine) for t in range(len(result.output_ids))]
        assert_close(result.token_attr, torch.stack(rows))


def test_units_sum_what_their_tokens_have(lm: LanguageModel) -> None:
    method = IntegratedGradients(lm.model)
    tokens = explained(lm, method, Prompt(TEXT, unit="token"), n_steps=3, baseline=1)
    sentences = explained(lm, method, Prompt(TEXT, unit="sentence"), n_steps=3, baseline=1)
    words = explained(lm, method, Prompt(TEXT, unit="word"), n_steps=3, baseline=1)
    assert len(sentences.input_tokens) == 3 < len(words.input_tokens) == 8 <= len(tokens.input_tokens)
    texts = "".join(tokens.input_tokens)
    assert texts == TEXT
    first = next(i for i in range(len(texts)) if len("".join(tokens.input_tokens[:i])) >= len("Dave sails boats."))
    blank = [i for i, text in enumerate(tokens.input_tokens) if not text.strip()]
    between = [i for i in blank if "".join(tokens.input_tokens[:i]).endswith(".")]
    for result, outside in ((sentences, between), (words, blank)):
        missing = tokens.token_attr[:, outside].sum(1)
        assert_close(result.token_attr.sum(1) + missing, tokens.token_attr.sum(1))
    assert_close(tokens.token_attr[:, :first].sum(1), sentences.token_attr[:, 0])


def test_slots_of_a_template(lm: LanguageModel) -> None:
    template = TextTemplateInput("{} sails {}. Who sails?", ["Dave", "boats"])
    result = explained(lm, IntegratedGradients(lm.model), template, n_steps=3)
    placed = template.placed(lm)
    low = [
        token if owner < 0 else lm.tokenizer.eos_token_id
        for token, owner in zip(placed.ids, placed.unit_of_token, strict=True)
    ]
    answer = range(len(result.output_ids))
    rows = torch.stack([slow.integrated(lm.model, placed.ids, low, result.output_ids, t, 3) for t in answer])
    owners = torch.tensor(placed.unit_of_token)
    assert result.input_tokens == ["Dave", "boats"]
    assert_close(result.token_attr, torch.stack([rows[:, owners == i].sum(1) for i in (0, 1)], 1))
    function = TextTemplateInput(lambda a, b: f"{a} sails {b}. Who sails?", ["Dave", "boats"])
    assert_close(explained(lm, IntegratedGradients(lm.model), function, n_steps=3).token_attr, result.token_attr)
    loud = TextTemplateInput(lambda a, b: f"{a} sails {b}.".replace("Dave", "DAVE!"), ["Dave", "boats"])
    with pytest.raises(UnsupportedMethod, match="does not tell which token"):
        explained(lm, IntegratedGradients(lm.model), loud)


def test_deltas_are_what_is_missing(lm: LanguageModel) -> None:
    result = explained(lm, IntegratedGradients(lm.model), n_steps=3, return_convergence_delta=True)
    with torch.no_grad():
        ids = result.inp.inp_tensor[0].tolist()
        high = slow.embeddings(lm.model, ids)
        low = slow.embeddings(lm.model, [0] * len(ids))
        change = [
            slow.token_log_prob(lm.model, high, result.output_ids, t)
            - slow.token_log_prob(lm.model, low, result.output_ids, t)
            for t in range(len(result.output_ids))
        ]
    expected = result.token_attr.sum(1) - torch.stack(change)
    torch.testing.assert_close(
        torch.tensor(result.provenance["token_convergence_delta"]), expected, rtol=1e-3, atol=1e-4
    )
    assert result.provenance["convergence_delta"] == [pytest.approx(float(expected.sum()), rel=1e-3, abs=1e-4)]


def test_layers_by_module_and_several_at_once(lm: LanguageModel) -> None:
    blocks = [lm.model.model.layers[0], lm.model.model.layers[1].mlp, lm.model.model.layers[2].self_attn]
    for block in blocks:
        result = explained(lm, LayerIntegratedGradients(lm.model, block), n_steps=3)
        assert result.token_attr.abs().sum() > 0
        assert_close(result.seq_attr, result.token_attr.sum(0))
    each = explained(lm, LayerGradientXActivation(lm.model, blocks))
    assert isinstance(each, list)
    assert len(each) == 3
    with pytest.raises(NoGradient, match=r"the 1\. of the 2 layers: another one behind it is replaced"):
        explained(lm, LayerIntegratedGradients(lm.model, [blocks[0], lm.model.model.layers[2]]), n_steps=2)
    alone = explained(lm, LayerGradientXActivation(lm.model, blocks[1]))
    assert alone.token_attr.shape == each[1].token_attr.shape


def test_one_forward_and_one_backward_for_the_whole_answer(lm: LanguageModel) -> None:
    calls = []
    handle = lm.model.register_forward_hook(lambda module, args, output: calls.append(output.logits.shape))
    result = explained(lm, InputXGradient(lm.model), token_rows=False)
    handle.remove()
    assert result.token_attr is None
    tokens = len(result.output_ids)
    assert calls == [(1, tokens, lm.model.config.vocab_size)]
    assert (result.provenance["passes"], result.provenance["backward"]) == (1, 1)
    full = explained(lm, InputXGradient(lm.model))
    assert_close(result.seq_attr, full.seq_attr)
    assert full.provenance["backward"] == tokens
    expected = slow.answer_logits(lm.model, slow.embeddings(lm.model, result.inp.inp_tensor[0]), result.output_ids)
    chosen = expected.softmax(-1).gather(-1, torch.tensor(result.output_ids)[:, None])[:, 0]
    for probabilities in (result.output_probs, full.output_probs):
        torch.testing.assert_close(probabilities, chosen)


@pytest.mark.parametrize("forward_mode", [False, True])
def test_several_quantities_share_their_forward_passes(
    lm: LanguageModel, forward_mode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies, "ROW_COST", 0.0 if forward_mode else 1e9)
    options: dict[str, Any] = {"n_steps": 3, "target": TARGET, "method": "integrated_gradients"}
    options |= {"return_convergence_delta": True, "unit": "sentence"}
    scalars = ["log_prob", "prob", "entropy", lambda logits, ids: logits.logsumexp(-1).max(), "contrast"]
    each = explain(lm, TEXT, scalar=scalars, foil=" Mira bakes.", **options)
    for scalar, found in zip(scalars, each, strict=True):
        foil = {"foil": " Mira bakes."} if scalar == "contrast" else {}
        alone = explain(lm, TEXT, scalar=scalar, **foil, **options)
        assert_close(found.seq_attr, alone.seq_attr)
        assert (found.token_attr is None) == (alone.token_attr is None)
        if alone.token_attr is not None:
            assert_close(found.token_attr, alone.token_attr)
        for delta in alone.provenance.keys() & {"convergence_delta", "token_convergence_delta"}:
            torch.testing.assert_close(found.provenance[delta], alone.provenance[delta], rtol=1e-3, atol=1e-5)
    plain = explain(lm, TEXT, scalar="log_prob", **options).provenance
    shared = explain(lm, TEXT, scalar=["log_prob", "entropy", "margin"], **options)[0].provenance
    if not forward_mode:
        assert shared["passes"] <= plain["passes"]
        assert shared["backward"] == 3 * plain["backward"]


@pytest.mark.parametrize("name", ["layer_integrated_gradients", "layer_gradient_x_activation"])
def test_contrasts_at_layers_are_the_difference_of_both_answers(lm: LanguageModel, name: str) -> None:
    foil = " Mira bakes bread."
    options: dict[str, Any] = {"method": name, "layer": "model.layers.1.mlp", "unit": "sentence"}
    if name == "layer_integrated_gradients":
        options |= {"n_steps": 3, "return_convergence_delta": True, "token_rows": True}
    found = explain(lm, TEXT, target=TARGET, foil=foil, **options)
    own, other = (explain(lm, TEXT, target=text, **options) for text in (TARGET, foil))
    assert_close(found.seq_attr, own.seq_attr - other.seq_attr)
    assert_close(found.token_attr.sum(0), found.seq_attr)
    assert found.provenance["passes"] == own.provenance["passes"] + other.provenance["passes"]
    assert (found.provenance["attr_target"], found.provenance["foil"]) == ("contrast", foil)
    torch.testing.assert_close(found.output_probs, own.output_probs)
    if "n_steps" in options:
        deltas = [result.provenance["convergence_delta"][0] for result in (found, own, other)]
        assert deltas[0] == pytest.approx(deltas[1] - deltas[2], abs=1e-5)
        assert sum(found.provenance["token_convergence_delta"]) == pytest.approx(deltas[0], abs=1e-4)
    embedding = {**options, "layer": "model.embed_tokens"}
    split = explain(lm, TEXT, target=TARGET, foil=foil, **embedding)
    assert_close(split.token_attr, explain(lm, TEXT, target=TARGET, foil=foil, **{**options, "layer": None}).token_attr)
    with pytest.raises(UnsupportedMethod, match="not linear in what it explains"):
        explain(lm, TEXT, target=TARGET, foil=foil, method="gradient_shap", layer="model.layers.1")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (lambda model: GradientShap(model), {"stdevs": 0.01, "n_samples": 3}),
        (lambda model: LayerGradientShap(model, model.get_input_embeddings()), {"n_samples": 3}),
        (lambda model: NoiseTunnel(IntegratedGradients(model)), {"nt_samples": 2, "stdevs": 0.01, "n_steps": 3}),
    ],
)
def test_random_methods_add_up_and_leave_the_streams_alone(lm: LanguageModel, method: Any, options: Any) -> None:
    before = torch.get_rng_state()
    first = explained(lm, method(lm.model), **options)
    assert torch.equal(before, torch.get_rng_state())
    assert_close(first.seq_attr, first.token_attr.sum(0))
    again = explained(lm, method(lm.model), **options)
    assert torch.equal(first.token_attr, again.token_attr)
    assert not torch.equal(explained(lm, method(lm.model), **options, seed=1).token_attr, first.token_attr)


def plain_scalar(lm: LanguageModel, name: str, foil: str) -> Any:
    """`(prompt embeddings, answer) -> (tokens,)`, slow and plain, from one pass over prompt and answer."""

    def rows(point: Tensor, answer: Any) -> Tensor:
        logits = slow.answer_logits(lm.model, point, answer)
        chosen = logits.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        others = logits.scatter(-1, torch.tensor(answer)[:, None], -torch.inf).amax(-1)
        log_p = logits.log_softmax(-1)
        return {
            "log_prob": chosen - logits.logsumexp(-1),
            "logit": chosen,
            "margin": chosen - others,
            "entropy": -(log_p.exp() * log_p).sum(-1),
            "first": logits[:, 0],
        }[name]

    return rows


@pytest.mark.parametrize("name", ["logit", "margin", "entropy", "kl", "contrast", "prob", "callable"])
@pytest.mark.parametrize("forward_mode", [False, True])
def test_every_scalar(lm: LanguageModel, name: str, forward_mode: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "ROW_COST", 0.0 if forward_mode else 1e9)
    units = Prompt(TEXT, unit="sentence")
    options: dict[str, Any] = {"foil": " Mira bakes."} if name == "contrast" else {"scalar": name}
    if name == "callable":
        options["scalar"] = lambda logits, ids: logits[:, 0]
    placed = units.bind(lm).placed(lm)
    prompt = slow.embeddings(lm.model, placed.ids)
    points, moved = [prompt], prompt
    method: Any = InputXGradient(lm.model)
    if name == "kl":  # at the prompt it has its minimum, where every derivative is 0
        method = IntegratedGradients(lm.model)
        options |= {"n_steps": 2, "baseline": 1}
        absent = [1 if moves else token for token, moves in zip(placed.ids, placed.moved, strict=True)]
        moved = prompt - slow.embeddings(lm.model, absent)
        points = [prompt - (1 + sign * 3**-0.5) / 2 * moved for sign in (-1, 1)]
    result = explained(lm, method, units, **options)
    foil = tuple(lm.encode(" Mira bakes.", special_tokens=False))

    def worth(point: Tensor, answer: Any) -> Tensor:
        if name in ("prob", "contrast"):
            return plain_scalar(lm, "log_prob", "")(point, answer)
        if name == "kl":
            reference = slow.answer_logits(lm.model, prompt, answer).log_softmax(-1)
            log_p = slow.answer_logits(lm.model, point, answer).log_softmax(-1)
            return (reference.exp() * (reference - log_p)).sum(-1)
        return plain_scalar(lm, "first" if name == "callable" else name, "")(point, answer)

    def whole(point: Tensor) -> Tensor:
        total = worth(point, result.output_ids).sum()
        return total.exp() if name == "prob" else total - worth(point, foil).sum() if name == "contrast" else total

    gradients = [torch.autograd.grad(whole(point), point)[0] for point in (p.clone().requires_grad_() for p in points)]
    each = (torch.stack(gradients).mean(0) * moved).sum(-1)[0]
    owners = torch.tensor(placed.unit_of_token)
    expected = torch.stack([each[owners == unit].sum() for unit in range(3)])
    assert expected.abs().max() > 1e-3 * whole(prompt).abs()  # far above what rounding makes of 0
    assert_close(result.seq_attr, expected)
    assert result.provenance["attr_target"] == name
    if name != "prob":
        assert (result.token_attr.sum(0) - expected).abs().max() <= 1e-4 * result.token_attr.abs().max()


def test_a_function_of_the_whole_answer_has_no_rows(lm: LanguageModel) -> None:
    result = explained(lm, InputXGradient(lm.model), scalar=lambda logits, ids: logits.logsumexp(-1).max())
    assert result.token_attr is None
    assert result.seq_attr.abs().sum() > 0


@pytest.mark.parametrize("kind", [SequentialIntegratedGradients, DiscretizedIntegratedGradients])
def test_paths_made_for_text(lm: LanguageModel, kind: Any) -> None:
    method = kind(lm.model, lm.model.get_input_embeddings())
    result = explained(lm, method, Prompt(TEXT, unit="word"), n_steps=3)
    assert result.token_attr.shape == (len(result.output_ids), 8)
    assert_close(result.seq_attr, result.token_attr.sum(0))


@pytest.mark.filterwarnings("ignore:Integrated Gradients in bfloat16")
def test_half_precision_sums_in_full(lm: LanguageModel) -> None:
    half = tiny("llama", "byte_bos")
    half.model.to(torch.bfloat16)
    with pytest.warns(UserWarning, match="ranks tokens otherwise than in fp32"):
        result = explained(half, IntegratedGradients(half.model), n_steps=3)
    assert result.token_attr.dtype == torch.float32
    half.model.float()
    close = explained(half, IntegratedGradients(half.model), n_steps=3)
    assert torch.corrcoef(torch.stack([result.seq_attr, close.seq_attr]))[0, 1] > 0.9


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba"])
def test_checkpointing_gives_the_same_and_is_put_back(family: str) -> None:
    lm = tiny(family, "byte_bos")
    before = state(lm.model)
    plain = explained(lm, IntegratedGradients(lm.model), n_steps=3, gradient_checkpointing=False)
    again = explained(lm, IntegratedGradients(lm.model), n_steps=3, gradient_checkpointing=True)
    assert_close(again.token_attr, plain.token_attr)
    assert_same(state(lm.model), before)


def test_the_model_is_left_as_it_was(lm: LanguageModel) -> None:
    lm.model.train()
    before = state(lm.model)
    explained(lm, IntegratedGradients(lm.model), n_steps=2)
    assert_same(state(lm.model), before)
    lm.model.eval()


def test_parts_of_the_answer_and_a_stored_result(lm: LanguageModel, tmp_path: Any) -> None:
    result = explained(lm, IntegratedGradients(lm.model), n_steps=3)
    part = result.for_output(slice(1, 3))
    torch.testing.assert_close(part.seq_attr, result.token_attr[1:3].sum(0))
    result.save(tmp_path / "run")
    assert LLMAttributionResult.load(tmp_path / "run") == result


def test_what_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(UnsupportedMethod, match="FeatureAblation; supported: Saliency"):
        LLMGradientAttribution(FeatureAblation(lm.model), lm.tokenizer)
    wrapper = LLMGradientAttribution(IntegratedGradients(lm.model), lm.tokenizer)
    with pytest.raises(UnknownKeyword, match="n_steps"):
        wrapper.attribute(TextTokenInput(TEXT, lm.tokenizer), target=TARGET, n_step=3)
    for method in ("integrated_gradients", "saliency", "deep_lift"):
        with pytest.raises(UnknownKeyword, match="takes no keyword 'targets'"):
            explain(lm, TEXT, target=TARGET, method=method, targets=[0, 1])
    with pytest.raises(EmptyTarget):
        wrapper.attribute(TextTokenInput(TEXT, lm.tokenizer), target="")
    for asked in ({"token_rows": "no"}, {"gradient_checkpointing": 1}, {"show_progress": None}):
        for ask in (explain, plan):
            with pytest.raises(InvalidType, match=f"{next(iter(asked))} must be True or False"):
                ask(lm, TEXT, target=TARGET, method="saliency", **asked)
    with pytest.raises(InvalidType, match="InterpretableInput or a Prompt"):
        wrapper.attribute(TEXT, target=TARGET)


@pytest.mark.parametrize("name", ["guided_backprop", "deconvolution"])
def test_guided_gradients_of_a_generation_are_their_sizes(lm: LanguageModel, name: str) -> None:
    opt = tiny("opt", "byte_bos")
    found = explain(opt, TEXT, target=TARGET, method=name, unit="word")
    plain = explain(opt, TEXT, target=TARGET, method="saliency", unit="word")
    assert found.provenance["baseline"] is None
    assert (found.seq_attr > 0).all()
    assert (found.seq_attr - plain.seq_attr).abs().max() > 0.01 * plain.seq_attr.max()
    assert found.token_attr is not None
    assert (found.token_attr.sum(0) > found.seq_attr).any()  # sizes do not add up
    with pytest.warns(UserWarning, match="no ReLU of the model"):
        same = explain(lm, TEXT, target=TARGET, method=name, unit="word")
    assert_close(same.seq_attr, explain(lm, TEXT, target=TARGET, method="saliency", unit="word").seq_attr)
