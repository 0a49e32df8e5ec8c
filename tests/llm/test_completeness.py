"""Path methods know how far their attributions are from the change that they divide, and say it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llm_attr import LLMAttributionResult, Prompt, explain, plan
from llm_attr.attr import (
    GradientShap,
    IntegratedGradients,
    LayerGradientShap,
    LayerIntegratedGradients,
    TextTokenInput,
)
from llm_attr.errors import InvalidValue, UnknownKeyword, UnsupportedMethod
from llm_attr.llm.gradient import LLMGradientAttribution
from llm_attr.llm.gradients.absent_units import line_break
from llm_attr.llm.gradients.methods import named as gradient_method
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.viz.text.lines.terminal import render
from tests.reference import generation_gradient as slow
from tests.zoo import tiny

TEXT, TARGET = "Dave sails boats. Who sails?", " Dave sails."
PATHS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 3},
    "layer_integrated_gradients": {"n_steps": 3},
    "discretized_integrated_gradients": {"n_steps": 3},
    "gradient_shap": {"n_samples": 4},
    "layer_gradient_shap": {"n_samples": 4, "stdevs": 0.01},
    "noise_tunnel": {"n_steps": 2, "nt_samples": 3, "stdevs": 0.01},
    "deep_lift": {},
}


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama", "byte_bos")


def change_of(lm: LanguageModel, result: LLMAttributionResult, baseline: int) -> Tensor:
    """`(tokens,)`: the log-probabilities after the prompt less those after nothing but baselines."""
    placed = result.inp.placed(lm)
    absent = [baseline if moves else token for token, moves in zip(placed.ids, placed.moved, strict=True)]
    ends = [slow.embeddings(lm.model, ids) for ids in (placed.ids, absent)]
    tokens = range(len(result.output_ids))
    with torch.no_grad():
        rows = [[slow.token_log_prob(lm.model, end, result.output_ids, t) for t in tokens] for end in ends]
    return torch.tensor(rows[0]) - torch.tensor(rows[1])


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize("token_rows", [False, True])
def test_the_gap_is_that_of_the_whole_answer(lm: LanguageModel, method: str, token_rows: bool) -> None:
    options = PATHS[method] | {"token_rows": token_rows, "baseline": 1, "unit": "token"}
    if method != "deep_lift":
        options["return_convergence_delta"] = True
    result = explain(lm, TEXT, target=TARGET, method=method, **options)
    change, about = change_of(lm, result, 1), result.provenance["completeness"]
    assert about["change"] == pytest.approx(float(change.sum()), rel=1e-3)
    assert about["total"] == pytest.approx(float(result.seq_attr.sum()), rel=1e-3, abs=1e-3)
    assert result.gap == pytest.approx(abs(about["total"] - about["change"]) / abs(about["change"]), abs=1e-6)
    if method == "deep_lift":
        assert result.gap < 1e-3
        return
    assert result.provenance["convergence_delta"] == [pytest.approx(about["total"] - about["change"], abs=1e-4)]
    if token_rows:
        missing = torch.tensor(result.provenance["token_convergence_delta"])
        torch.testing.assert_close(missing, result.token_attr.sum(1) - change, rtol=1e-3, atol=1e-3)


def test_tokens_of_no_unit_count(lm: LanguageModel) -> None:
    kw: dict[str, Any] = {"target": TARGET, "method": "integrated_gradients", "n_steps": 3, "baseline": 1}
    by_sentence, by_token = (explain(lm, TEXT, unit=unit, **kw) for unit in ("sentence", "token"))
    assert by_sentence.gap == pytest.approx(by_token.gap, rel=1e-3)


def test_each_quantity_has_its_own(lm: LanguageModel) -> None:
    kw: dict[str, Any] = {"target": TARGET, "method": "gradient_shap", "n_samples": 5, "token_rows": True}
    kw["return_convergence_delta"] = True
    several = explain(lm, TEXT, scalar=["log_prob", "entropy", "margin"], **kw)
    for scalar, found in zip(("log_prob", "entropy", "margin"), several, strict=True):
        alone = explain(lm, TEXT, scalar=scalar, **kw)
        for name in ("convergence_delta", "token_convergence_delta"):
            torch.testing.assert_close(found.provenance[name], alone.provenance[name], rtol=1e-3, atol=1e-4)
        assert len(found.provenance["convergence_delta"]) == 1
        assert len(found.provenance["token_convergence_delta"]) == len(found.output_tokens)
        own, expected = found.provenance["completeness"], alone.provenance["completeness"]
        assert own.keys() == expected.keys()
        for name, value in expected.items():
            assert own[name] == pytest.approx(value, rel=1e-3, abs=1e-4)


def test_random_methods_have_the_error_of_their_mean(lm: LanguageModel) -> None:
    samples: list[Tensor] = []
    inner = GradientShap(lambda x: (x**3).sum((1, 2)))
    x, low = torch.randn(1, 4, 3), torch.zeros(2, 4, 3)
    mean = inner.attribute(x, low, n_samples=7, seed=0, inspect=lambda chunk: samples.append(chunk[0]))
    torch.testing.assert_close(torch.cat(samples, 1).mean(1), mean)
    kw: dict[str, Any] = {"target": TARGET, "method": "gradient_shap", "unit": "word"}
    results = [explain(lm, TEXT, n_samples=40, token_rows=False, seed=seed, **kw) for seed in range(12)]
    spread = torch.stack([result.seq_attr for result in results]).std(0)
    claimed = torch.stack([result.stderr for result in results]).mean(0)
    assert 0.5 < float((spread / claimed).mean()) < 1.5
    assert "stderr" in results[0].provenance["completeness"]
    rows = explain(lm, TEXT, n_samples=3, token_rows=True, **kw)
    assert rows.token_stderr.shape == rows.token_attr.shape
    assert explain(lm, TEXT, n_samples=1, token_rows=False, **kw).stderr is None
    tunnel = kw | {"method": "noise_tunnel", "attribution_method": "input_x_gradient", "stdevs": 0.01, "nt_samples": 3}
    assert (explain(lm, TEXT, **tunnel).stderr > 0).all()
    assert (explain(lm, TEXT, nt_type="smoothgrad_sq", **tunnel).stderr > 0).all()
    assert explain(lm, TEXT, nt_type="vargrad", **tunnel).stderr is None
    with pytest.raises(UnknownKeyword):
        explain(lm, TEXT, inspect=print, **kw)


def test_an_incomplete_explanation_says_so_first(lm: LanguageModel, tmp_path: Any) -> None:
    kw: dict[str, Any] = {"target": TARGET, "method": "integrated_gradients"}
    rough = explain(lm, TEXT, n_steps=1, token_rows=True, **kw)
    assert rough.gap > 0.05
    lines = render(rough.view(), width=200).splitlines()
    assert lines[1].startswith("Incomplete: the attributions sum to ")
    assert "until=0.01" in lines[1]
    assert rough.to_html().index("Incomplete: ") < rough.to_html().index('aria-label="Prompt"')
    rough.save(tmp_path / "run")
    loaded = LLMAttributionResult.load(tmp_path / "run")
    assert loaded.gap == rough.gap
    assert f'"gap": {rough.gap!r}'[:12] in loaded.to_json()
    fine = explain(lm, TEXT, until=0.01, **kw)
    assert fine.gap <= 0.01
    assert "Incomplete" not in render(fine.view()) + fine.to_html()
    assert explain(lm, TEXT, target=TARGET, method="saliency").gap is None


@pytest.mark.parametrize("method", PATHS)
def test_a_part_of_the_answer_has_its_own_gap(lm: LanguageModel, method: str) -> None:
    kw: dict[str, Any] = {"target": TARGET, "method": method, "unit": "token", "baseline": 1}
    result = explain(lm, TEXT, token_rows=True, **kw, **PATHS[method])
    change = change_of(lm, result, 1)
    for part, tokens in ((result.for_output(slice(1, 4)), slice(1, 4)), (result.for_output(slice(0, 3)), slice(0, 3))):
        moved, total = float(change[tokens].sum()), float(part.seq_attr.sum())
        assert part.provenance["completeness"]["change"] == pytest.approx(moved, rel=1e-3, abs=1e-4)
        assert part.gap == pytest.approx(abs(total - moved) / abs(moved), rel=1e-3, abs=1e-3)
    again = result.for_output(slice(1, 4)).for_output(slice(1, 2))
    assert again.provenance["completeness"]["change"] == pytest.approx(float(change[2]), rel=1e-3, abs=1e-4)
    assert "token_totals" not in explain(lm, TEXT, token_rows=False, **kw, **PATHS[method]).provenance["completeness"]


def test_sequential_paths_have_the_gap_of_their_positions(lm: LanguageModel) -> None:
    kw: dict[str, Any] = {"target": TARGET, "method": "sequential_integrated_gradients", "baseline": 1}
    rough, fine = (explain(lm, TEXT, n_steps=steps, token_rows=False, **kw) for steps in (1, 60))
    assert fine.gap < 0.02 < rough.gap
    placed = fine.inp.placed(lm)
    whole = explain(lm, TEXT, n_steps=60, unit="token", **kw)
    changes = []
    for place, moves in enumerate(placed.moved):
        if moves:
            ids = [1 if k == place else token for k, token in enumerate(placed.ids)]
            points = [slow.embeddings(lm.model, each) for each in (placed.ids, ids)]
            tokens = range(len(fine.output_ids))
            with torch.no_grad():
                high, low = (
                    sum(float(slow.token_log_prob(lm.model, p, fine.output_ids, t)) for t in tokens) for p in points
                )
            changes.append(high - low)
    assert whole.provenance["completeness"]["change"] == pytest.approx(sum(changes), rel=1e-3)


@pytest.mark.parametrize("present", [0, "last", "first"])
def test_baselines_say_what_is_present_as_captums_do(lm: LanguageModel, present: Any) -> None:
    captum = pytest.importorskip("captum.attr")
    embedding = lm.model.get_input_embeddings()
    ours = TextTokenInput(TEXT, lm.tokenizer)
    theirs = captum.TextTokenInput(TEXT, lm.tokenizer)
    mask = torch.zeros(1, ours.to_tensor().shape[1])
    if isinstance(present, str):
        mask[0, -1 if present == "last" else 0] = 1
    given = present if isinstance(present, int) else mask
    target = lm.encode(TARGET, special_tokens=False)
    found = LLMGradientAttribution(LayerIntegratedGradients(lm.model, embedding), lm.tokenizer).attribute(
        ours, target=target, n_steps=4, baselines=given
    )
    reference = captum.LLMGradientAttribution(captum.LayerIntegratedGradients(lm.model, embedding), lm.tokenizer)
    with torch.enable_grad():
        expected = reference.attribute(theirs, target=torch.tensor(target), n_steps=4, baselines=given)
    assert (found.token_attr - expected.token_attr).abs().max() <= 1e-4 * expected.token_attr.abs().max() + 1e-6


def test_baselines_of_gradient_shap_are_states_to_draw_from(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.random, "uniform", lambda low, high, count: np.full(count, 0.3))
    monkeypatch.setattr(np.random, "choice", lambda among, count: np.arange(count) % among)
    embedding = lm.model.get_input_embeddings()
    states = torch.zeros(2, TextTokenInput(TEXT, lm.tokenizer).to_tensor().shape[1])
    states[1, 2:5] = 1
    inp = TextTokenInput(TEXT, lm.tokenizer)
    found = LLMGradientAttribution(LayerGradientShap(lm.model, embedding), lm.tokenizer).attribute(
        inp, target=TARGET, baselines=states, seed=None, n_samples=4
    )
    ids = inp.placed(lm).ids
    high = slow.embeddings(lm.model, ids)
    for t in range(len(found.output_ids)):
        each = []
        for state in states.tolist():
            low = slow.embeddings(lm.model, [token if here else 0 for token, here in zip(ids, state, strict=True)])
            point = (low + 0.3 * (high - low)).requires_grad_()
            (gradient,) = torch.autograd.grad(slow.token_log_prob(lm.model, point, found.output_ids, t), point)
            each.append((gradient * (high - low)).sum(-1)[0])
        expected = torch.stack(each).mean(0)
        assert (found.token_attr[t] - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("given", [2, torch.zeros(1, 3), torch.full((1, 33), 0.5), "none"])
def test_baselines_that_say_nothing_are_refused(lm: LanguageModel, given: Any) -> None:
    with pytest.raises(InvalidValue, match="present \\(1\\) and absent \\(0\\)"):
        explain(lm, TextTokenInput(TEXT, lm.tokenizer), target=TARGET, method="integrated_gradients", baselines=given)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_baseline_of_zeros_does_not_explode(family: str) -> None:
    zero = tiny(family, "byte_bos")
    kw: dict[str, Any] = {"target": TARGET, "method": "discretized_integrated_gradients", "baseline": 1}
    kw |= {"token_rows": False}
    with torch.no_grad():
        zero.model.get_input_embeddings().weight[1] = 0  # as that of a padding_idx
    result = explain(zero, TEXT, n_steps=30, **kw)
    about = result.provenance["completeness"]
    scale = abs(about["change"]) + float(result.output_probs.log().abs().sum())
    assert float(result.seq_attr.abs().sum()) < 10 * scale


def test_defaults_of_text(lm: LanguageModel) -> None:
    kw: dict[str, Any] = {"target": TARGET, "token_rows": False}
    for method, default in (
        ("sequential_integrated_gradients", {"n_steps": 5}),
        ("discretized_integrated_gradients", {"method": "riemann_middle"}),
    ):
        plain = explain(lm, TEXT, method=method, **kw)
        run = LLMGradientAttribution(gradient_method(method, lm), lm.tokenizer)
        told = run.attribute(TextTokenInput(TEXT, lm.tokenizer, baselines=1), **kw, **default)
        again = run.attribute(TextTokenInput(TEXT, lm.tokenizer, baselines=1), **kw)
        assert torch.equal(told.seq_attr, again.seq_attr)
        assert plain.gap is not None


def test_a_method_by_name_takes_the_steps_of_a_complete_explanation(lm: LanguageModel) -> None:
    kw: dict[str, Any] = {"target": TARGET, "token_rows": False}
    plain = explain(lm, TEXT, method="integrated_gradients", **kw)
    run, start = (
        LLMGradientAttribution(IntegratedGradients(lm.model), lm.tokenizer),
        lm.encode("\n", special_tokens=False)[0],
    )
    told = run.attribute(Prompt(TEXT), n_steps=64, method="riemann_middle", baseline=start, **kw)
    assert torch.equal(plain.seq_attr, told.seq_attr)
    assert plain.provenance["baseline"] == "\n"
    assert plain.provenance["options"] == {"n_steps": 64, "method": "riemann_middle"}
    assert explain(lm, TEXT, method="integrated_gradients", until=0.5, **kw).provenance["options"] == {"until": 0.5}


@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift", "gradient_shap"])
def test_a_path_starts_from_what_was_said_or_from_line_breaks(lm: LanguageModel, method: str) -> None:
    kw: dict[str, Any] = {"target": TARGET, "method": method}

    def starts(prompt: Any, **more: Any) -> str:
        return str(explain(lm, prompt, **kw, **more).provenance["baseline"])

    assert starts(TEXT) == starts(Prompt(TEXT, absence="mask")) == "\n"
    assert starts(TEXT, baseline=lm.encode("x", special_tokens=False)[0]) == "x"
    assert starts(Prompt(TEXT, absence="replace", replacement=lm.encode("y", special_tokens=False)[0])) == "y"
    assert starts(TextTokenInput(TEXT, lm.tokenizer, baselines=lm.encode("z", special_tokens=False)[0])) == "z"
    captum = LLMGradientAttribution(gradient_method(method, lm), lm.tokenizer).attribute(Prompt(TEXT), target=TARGET)
    assert captum.provenance["baseline"] not in ("\n", "x", "y", "z")


def test_a_tokenizer_without_a_token_for_line_breaks_starts_from_its_own_end() -> None:
    words = tiny("llama", "wordpiece")
    assert line_break(words) is None
    found = explain(words, "Dave lives in Palm Coast.", target="Aksel", method="deep_lift", unit="word")
    assert found.provenance["baseline"] == "[SEP]"


@pytest.mark.parametrize("method", [*sorted(PATHS.keys() - {"deep_lift"}), "sequential_integrated_gradients"])
def test_methods_of_many_points_give_tokens_where_they_are_asked_for(lm: LanguageModel, method: str) -> None:
    kw: dict[str, Any] = {"target": TARGET, "method": method, **PATHS.get(method, {"n_steps": 2})}
    kw.pop("stdevs", None)
    whole, rows = explain(lm, TEXT, **kw), explain(lm, TEXT, token_rows=True, **kw)
    assert whole.token_attr is None
    assert rows.token_attr.shape == (len(rows.output_ids), len(rows.input_tokens))
    assert whole.provenance["backward"] < rows.provenance["backward"] + rows.provenance["forward_mode"]
    for refused in (lambda: whole.for_output(slice(0, 2)), whole.plot_token_attr):
        with pytest.raises(UnsupportedMethod, match="token_rows=True"):
            refused()
    part = explain(lm, TEXT, region=slice(0, 2), **kw)
    torch.testing.assert_close(part.seq_attr, rows.for_output(slice(0, 2)).seq_attr)
    planned = [plan(lm, TEXT, measure=False, **each, **kw) for each in ({}, {"region": slice(0, 2)})]
    assert [each.backward for each in planned] == [one.provenance["backward"] for one in (whole, part)]
    assert [each.positions for each in planned] == [one.provenance["positions"] for one in (whole, part)]
