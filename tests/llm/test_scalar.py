"""Which quantity of an answer is explained: against slow references, in one run with others, stored and in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult, Prompt, explain
from llm_attr.attr import FeatureAblation, LLMAttribution, TextTemplateInput
from llm_attr.core.game import coalitions as designs
from llm_attr.errors import (
    ContextTooLong,
    InvalidShape,
    InvalidTarget,
    InvalidType,
    InvalidValue,
    NonFiniteScore,
    UnknownName,
    UnsupportedMethod,
)
from llm_attr.llm.target.scalar import NAMES, Scalar, contrast, kl, scalar_of, scalars_of
from tests.llm.quantities import (
    FAMILIES,
    FOIL,
    TARGET,
    TEXT,
    ids_of,
    leave_one_out,
    left,
    model_of,
    slow,
)
from tests.reference.scalar import next_logits, quantity
from tests.zoo import CONTEXT, VOCABULARY, tiny

QUANTITIES = ["log_prob", "prob", "logit", "margin", "entropy", "kl"]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return model_of("llama")


def top_two(logits: Tensor, ids: Tensor) -> Tensor:
    """Of each token."""
    assert logits.dtype == torch.float32
    assert logits.shape == (len(ids), logits.shape[1])
    return logits.topk(2).values[:, 0] - logits.gather(1, ids[:, None])[:, 0]


def spread(logits: Tensor, ids: Tensor) -> float:
    """Of the whole answer."""
    return logits.std().item() * len(ids)


def both(result: LLMAttributionResult) -> Tensor:
    """`(1 + answer tokens, units)`."""
    assert result.token_attr is not None
    return torch.cat([result.seq_attr[None], result.token_attr])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [*QUANTITIES, top_two])
def test_against_the_slow_definition(family: str, name: Any) -> None:
    lm = model_of(family)
    result = explain(lm, TEXT, target=TARGET, scalar=name)
    values = slow(lm, name, leave_one_out(4), result.output_ids)
    expected = (values[:1] - values[1:]).T
    size = expected.abs().amax(1, keepdim=True) if name == "prob" else expected.abs().max().clamp(min=1)
    assert ((both(result) - expected).abs() / size).max() < 2e-4
    assert expected.abs().max() > 0
    torch.testing.assert_close(
        result.output_probs,
        slow(lm, "log_prob", leave_one_out(4)[:1], result.output_ids)[0, 1:].exp(),
        rtol=1e-3,
        atol=1e-7,
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba"])
@pytest.mark.parametrize("name", ["entropy", "kl", "margin", top_two])
def test_a_sampled_method_against_the_slow_definition(family: str, name: Any) -> None:
    lm = model_of(family)
    result = explain(lm, TEXT, target=TARGET, scalar=name, method="permutation_shapley", n_samples=4)
    table = result.table
    assert table is not None
    distinct = dict(zip(designs.keys(table.coalitions), table.coalitions, strict=True))
    values = dict(zip(distinct, slow(lm, name, torch.stack(list(distinct.values())), result.output_ids), strict=True))
    worth = torch.stack([values[key] for key in designs.keys(table.coalitions)])
    torch.testing.assert_close(table.values[0], worth[:, 1:], rtol=1e-3, atol=1e-3)
    assert table.estimator is not None
    expected = table.estimator.estimate(table.coalitions, worth)
    torch.testing.assert_close(both(result), expected.values.T, rtol=1e-3, atol=1e-3)
    assert result.stderr is not None


def test_a_number_for_the_whole_answer(lm: LanguageModel, tmp_path: Path) -> None:
    result = explain(lm, TEXT, target=TARGET, scalar=spread)
    worth = [
        spread(next_logits(lm.model, left(lm, row), result.output_ids).float(), torch.tensor(result.output_ids))
        for row in leave_one_out(4).tolist()
    ]
    expected = torch.tensor([worth[0] - each for each in worth[1:]])
    torch.testing.assert_close(result.seq_attr, expected, rtol=1e-3, atol=1e-4)
    assert result.token_attr is None
    assert (result.provenance["attr_target"], result.provenance["function"]) == ("callable", "spread")
    assert result.view().value_name == "value of spread"
    with pytest.raises(UnsupportedMethod, match="one number for the whole answer"):
        result.for_output("likes")
    result.save(tmp_path / "run")
    again = LLMAttributionResult.load(tmp_path / "run")
    assert again == result
    assert torch.equal(again.table.attributions().values[0], result.seq_attr)
    result.to_html()
    one_token = explain(lm, TEXT, target=[7], scalar=spread)
    assert one_token.token_attr is None
    assert explain(lm, TEXT, target=[7], scalar=top_two).token_attr is not None


def test_several_scalars_share_the_passes(lm: LanguageModel) -> None:
    explain(lm, TEXT, target=TARGET)
    calls: list[int] = []
    asked = ["log_prob", "prob", "entropy", "logit", "margin", top_two, spread, "contrast"]
    handle = lm.model.register_forward_pre_hook(lambda *_: calls.append(1))
    together = explain(lm, TEXT, target=TARGET, scalar=asked, foil=FOIL)
    passes = len(calls)
    alone = [
        explain(lm, TEXT, target=TARGET, scalar=each, **({"foil": FOIL} if each == "contrast" else {}))
        for each in asked
    ]
    handle.remove()
    assert passes == alone[-1].provenance["passes"] == together[0].provenance["passes"]
    assert len(calls) - passes >= len(asked) * 1
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.seq_attr, other.seq_attr, rtol=1e-3, atol=1e-3)
        assert one.provenance["attr_target"] == other.provenance["attr_target"]


@pytest.mark.parametrize("cached", [True, False])
def test_a_reference_costs_one_pass(lm: LanguageModel, cached: bool) -> None:
    explain(lm, TEXT, target=TARGET)
    plain, compared = (
        explain(lm, TEXT, target=TARGET, scalar=name, use_cached_outputs=cached).provenance
        for name in ("entropy", "kl")
    )
    assert compared["passes"] == plain["passes"] + 1
    answer = ids_of(lm, TARGET)
    own = next_logits(lm.model, left(lm, [True] * 4), answer).log_softmax(-1)
    given = explain(lm, TEXT, target=TARGET, scalar=kl(own), use_cached_outputs=cached)
    assert given.provenance["passes"] == plain["passes"]
    found = explain(lm, TEXT, target=TARGET, scalar="kl")
    torch.testing.assert_close(given.seq_attr, found.seq_attr, rtol=1e-3, atol=1e-3)
    assert (found.table.whole.abs() < 1e-4).all()
    assert (found.table.values > -1e-4).all()


def test_lists_of_prompts_and_of_scalars(lm: LanguageModel) -> None:
    prompts = [TEXT, "Mira bakes. Dave sails."]
    asked = ["entropy", "kl", "contrast"]
    found = explain(lm, prompts, target=TARGET, scalar=asked, foil=FOIL)
    for prompt, results in zip(prompts, found, strict=True):
        alone = explain(lm, prompt, target=TARGET, scalar=asked, foil=FOIL)
        for one, other in zip(results, alone, strict=True):
            torch.testing.assert_close(both(one), both(other), rtol=1e-3, atol=1e-3)
    with pytest.raises(InvalidTarget, match="prompt 1: the foil is the answer itself"):
        explain(lm, prompts, target=[TARGET, FOIL], foil=FOIL)


@pytest.mark.parametrize("per_eval", [1, 2])
@pytest.mark.parametrize("name", ["kl", top_two, spread])
def test_packs_and_parts_change_nothing(lm: LanguageModel, per_eval: int, name: Any, monkeypatch: Any) -> None:
    expected = explain(lm, TEXT, target=TARGET, scalar=name)
    found = explain(lm, TEXT, target=TARGET, scalar=name, perturbations_per_eval=per_eval)
    torch.testing.assert_close(found.seq_attr, expected.seq_attr, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr("llm_attr.llm.scoring.passes.positions_that_fit", lambda _: 3)
    packed = explain(lm, TEXT, target=TARGET, scalar=name)
    assert packed.provenance["passes"] > 5
    torch.testing.assert_close(packed.seq_attr, expected.seq_attr, rtol=1e-3, atol=1e-3)


def test_a_function_sees_its_own_copy_and_no_more_than_it_must(lm: LanguageModel) -> None:
    rows: list[int] = []

    def spoils(logits: Tensor, ids: Tensor) -> Tensor:
        rows.append(logits.shape[0])
        logits.zero_()
        return ids.float()

    answer = ids_of(lm, TARGET)
    found = explain(lm, TEXT, target=TARGET, scalar=[spoils, "logit", top_two])
    assert set(rows) == {len(answer)}
    assert len(rows) == 5
    assert found[0].seq_attr.abs().max() == 0
    for one, name in ((found[1], "logit"), (found[2], top_two)):
        assert torch.allclose(both(one), both(explain(lm, TEXT, target=TARGET, scalar=name)), atol=1e-4)


@pytest.mark.parametrize("name", [*QUANTITIES, "contrast", top_two])
def test_parts_and_stored_results(lm: LanguageModel, name: Any, tmp_path: Path) -> None:
    foil = FOIL if name == "contrast" else None
    result = explain(lm, TEXT, target=TARGET, scalar=name, foil=foil, method="permutation_shapley", n_samples=4)
    part = result.for_output("likes")
    again = explain(
        lm, TEXT, target=TARGET, scalar=name, foil=foil, region="likes", method="permutation_shapley", n_samples=4
    )
    torch.testing.assert_close(both(part), both(again))
    if name != "prob":
        torch.testing.assert_close(part.token_attr.sum(0), part.seq_attr, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(part.token_attr, result.token_attr[slice(*part.region)])
    result.save(tmp_path / "run")
    loaded = LLMAttributionResult.load(tmp_path / "run")
    assert loaded == result
    assert loaded.for_output("likes") == part
    assert torch.equal(loaded.table.attributions().values, both(result))
    page = loaded.to_html()
    assert loaded.view().value_name in page
    assert (name != "contrast") or dict(loaded.view().notes)["foil"] == FOIL


def test_sampling_ends_when_all_scalars_are_sure(lm: LanguageModel) -> None:
    found = explain(
        lm, TEXT, target=TARGET, scalar=["log_prob", "entropy", spread], method="permutation_shapley", until=0.05
    )
    for each in found:
        assert each.stderr.max() <= 0.05 * each.seq_attr.abs().max()


def test_wrappers_take_the_same_names(lm: LanguageModel) -> None:
    inp = TextTemplateInput("{} lives in {}.", ["Dave", "Palm Coast"])
    for name in ("entropy", kl(), contrast(FOIL), top_two):
        wrapper = LLMAttribution(FeatureAblation(lm.model), lm.tokenizer, name)
        found = wrapper.attribute(inp, target=TARGET)
        direct = explain(lm, inp, target=TARGET, attr_target=name)
        torch.testing.assert_close(both(found), both(direct))
        assert wrapper.attr_target is name
    assert {scalar_of(name, "x" if name == "contrast" else None).name for name in NAMES} == set(NAMES)
    own = kl()
    assert scalars_of([own, "entropy"])[0] is own


def failing(*_: Any) -> Any:
    raise ValueError("no such thing")


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"foil": TARGET}, InvalidTarget, "the foil is the answer itself, ' He likes fishing.'"),
    ({"foil": ""}, llm_attr.errors.EmptyTarget, "holds no token"),
    ({"foil": [10**6]}, InvalidValue, "not a token id"),
    ({"foil": list(range(2, CONTEXT))}, ContextTooLong, "positions"),
    ({"foil": FOIL, "scalar": "entropy"}, InvalidValue, "a foil goes with the scalars 'log_prob' and 'contrast'"),
    ({"foil": FOIL, "scalar": ["entropy", "log_prob"]}, InvalidValue, "'contrast' if there is a foil"),
    ({"scalar": "contrast"}, InvalidValue, "a contrast needs another answer"),
    ({"scalar": "entropie"}, UnknownName, r"unknown scalar 'entropie' \(did you mean 'entropy'\?\).*log_prob, prob"),
    ({"scalar": "callable"}, UnknownName, "callable"),
    ({"scalar": ["log_prob", "margins"]}, UnknownName, "did you mean 'margin'"),
    ({"scalar": []}, InvalidValue, "at least one"),
    ({"scalar": 3}, InvalidType, "a scalar is one of log_prob, prob"),
    ({"scalar": "entropy", "attr_target": "prob"}, InvalidValue, "attr_target is another name for scalar"),
    (
        {"scalar": lambda logits, ids: logits[0]},
        InvalidShape,
        r"\(\d+,\), a number for each token.*got shape \(640",
    ),
    ({"scalar": lambda logits, ids: logits.mean(1) / 0}, InvalidValue, "returned NaN or infinity"),
    ({"scalar": lambda logits, ids: float("nan")}, InvalidValue, "returned NaN or infinity"),
    ({"scalar": lambda logits, ids: "a"}, InvalidType, "must return a tensor .tokens,. or a number; got str"),
    ({"scalar": lambda logits, ids: None}, InvalidType, "NoneType"),
    ({"scalar": failing}, InvalidValue, r"the scalar failing failed on logits \(\d+, 640\).*ValueError: no such thing"),
    ({"scalar": kl(torch.zeros(2, VOCABULARY))}, InvalidShape, "has 2 tokens, but the answer"),
    ({"scalar": kl(torch.zeros(1, 5)), "target": [7]}, InvalidShape, "over the 640 tokens of the model"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG)
def test_what_cannot_be_explained(
    lm: LanguageModel, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        explain(lm, TEXT, **{"target": TARGET} | options)
    assert explain(lm, TEXT, target=TARGET).provenance["scoring"].startswith("prefix tree")


def test_wrong_scalars() -> None:
    with pytest.raises(InvalidShape, match="must be log-probabilities"):
        kl(torch.zeros(3))
    with pytest.raises(InvalidValue, match="no reference yet"):
        Scalar("kl").read(torch.zeros(1, 2, 3), torch.tensor([0, 1]))


def test_a_function_that_changes_its_mind(lm: LanguageModel) -> None:
    counted: list[int] = []

    def wavering(logits: Tensor, ids: Tensor) -> Any:
        counted.append(1)
        return 1.0 if len(counted) == 3 else logits.mean(1)

    with pytest.raises(InvalidShape, match="after some variants of the prompt"):
        explain(lm, TEXT, target=TARGET, scalar=wavering)


def test_a_model_without_some_tokens() -> None:
    """Minus infinity in the logits of tokens that cannot come is no reason for NaN; that of the answer's is."""
    lm = tiny("llama")
    handle = lm.model.lm_head.register_forward_hook(
        lambda _, __, out: out.index_fill(-1, torch.tensor([5, 6]), -torch.inf)
    )
    found = explain(lm, TEXT, target=[7, 9], scalar=["entropy", "kl", "margin"])
    assert all(each.seq_attr.isfinite().all() for each in found)
    with pytest.raises(NonFiniteScore, match="log-probabilities"):
        explain(lm, TEXT, target=[7, 5], scalar="entropy")
    handle.remove()


@pytest.mark.parametrize("name", [*QUANTITIES, top_two])
def test_gradients_pass_through_what_is_read(name: Any) -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 3, 11, dtype=torch.float64, requires_grad=True), torch.tensor([4, 0, 10])
    scalar = kl(torch.randn(3, 11).log_softmax(-1)) if name == "kl" else scalar_of(name)
    if name is top_two:
        found = scalar.read(logits.float(), ids)
        assert torch.autograd.grad(found.sum(), logits)[0].abs().sum() > 0
        return

    def whole(given: Tensor) -> Tensor:
        return scalar.read(given, ids)

    assert torch.autograd.gradcheck(whole, (logits,), atol=1e-4)
    assert scalar.payoff(whole(logits)).shape == (2, 4)


@pytest.mark.real
@pytest.mark.slow
def test_on_a_real_model(smollm: LanguageModel) -> None:
    text = "Aksel repairs violins. Mira bakes bread. What does Aksel repair?"
    asked = ["log_prob", "entropy", "kl", "margin", "logit", "contrast"]
    found = explain(smollm, text, target=" Aksel repairs violins.", scalar=asked, foil=" Aksel repairs old boats.")
    answer = list(found[0].output_ids)
    prompt = Prompt(text).bind(smollm)
    design = leave_one_out(3).tolist()
    logits = [next_logits(smollm.model, list(prompt.variant(row).tokens), answer) for row in design]
    reference = logits[0].softmax(-1)
    for name, result in zip(asked[:5], found, strict=False):
        values = torch.stack([quantity(name, each, answer, reference) for each in logits]).float()
        torch.testing.assert_close(result.token_attr, (values[:1] - values[1:]).T, rtol=1e-3, atol=2e-3)
    foil = ids_of(smollm, " Aksel repairs old boats.")
    worth = [
        quantity("log_prob", own, answer).sum()
        - quantity("log_prob", next_logits(smollm.model, list(prompt.variant(row).tokens), foil), foil).sum()
        for own, row in zip(logits, design, strict=True)
    ]
    expected = torch.stack([worth[0] - each for each in worth[1:]]).float()
    torch.testing.assert_close(found[-1].seq_attr, expected, rtol=1e-3, atol=2e-3)
    assert found[-1].top(1)[0].text.startswith("Aksel repairs violins")
