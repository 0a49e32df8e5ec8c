"""What a long explanation of a text is told to cost, and what really takes less."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest

from llm_attr import cli, explain
from llm_attr.attr import LLMAttribution
from llm_attr.core import evaluator as running
from llm_attr.core.registry import METHODS
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.scoring.options import Options
from tests.zoo import tiny

TEXT = "Dave sails. Mira bakes bread. It rained. Who sails?"
TARGET = " Dave sails a boat."


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama", "byte_bos")


def options_of(lm: LanguageModel, method: str, **options: Any) -> tuple[Any, Options]:
    wrapped = METHODS[method](lm.model)
    wrapper = LLMAttribution(wrapped, lm.tokenizer)
    return wrapped, wrapper._options(**options)


@pytest.mark.parametrize("share", [1e-6, 0.1, 0.9])
@pytest.mark.parametrize("features", [4, 8, 14])
@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("owen", {}),
        ("pairwise_interactions", {}),
        ("pairwise_interactions", {"index": "faith_banzhaf"}),
        ("shapley_values", {}),
        ("banzhaf", {"n_samples": None}),
        ("permutation_shapley", {"n_samples": 50}),
        ("kernel_shap", {"n_samples": 1000}),
    ],
)
def test_what_is_advised_takes_at_most_half(
    lm: LanguageModel, method: str, given: dict[str, Any], features: int, share: float
) -> None:
    kind, options = options_of(lm, method, **given)
    whole = options.estimator.evaluations(features)
    for advice in options.quicker(kind, [features], share):
        named = re.fullmatch(r"(?:method='(\w+)', )?n_samples=(\d+) \(([\d,]+) evaluations\)", advice)
        if named is None:
            assert advice == "budget='30 s'"
            assert not options.estimator.fixed
            continue
        kind = kind if named[1] is None else METHODS[named[1]]
        other = kind.estimator(**{**given, "n_samples": int(named[2])})
        assert other.evaluations(features) == int(named[3].replace(",", ""))
        assert other.evaluations(features) <= whole / 2


def test_as_large_a_sample_is_advised_as_a_minute_is_enough_for(lm: LanguageModel) -> None:
    kind, options = options_of(lm, "owen")
    assert options.quicker(kind, [8], 0.9)[0] == "n_samples=5 (72 evaluations)"
    assert options.quicker(kind, [8], 0.1)[0] == "n_samples=2 (30 evaluations)"
    kind, options = options_of(lm, "pairwise_interactions")
    assert options.quicker(kind, [8], 0.9)[0] == "n_samples=2 (114 evaluations)"
    assert options.quicker(kind, [14], 0.9)[0] == "n_samples=25 (4,552 evaluations)"
    assert not options_of(lm, "feature_ablation")[1].quicker(METHODS["feature_ablation"](lm.model), [8], 0.5)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (
            {"method": "permutation_shapley", "until": 0.05},
            "a larger until, or budget='30 s', or larger or fewer units",
        ),
        ({"method": "permutation_shapley", "budget": 12}, "a smaller budget, or larger or fewer units"),
        ({"method": "feature_ablation"}, "larger or fewer units"),
        ({"method": "shapley_values"}, "larger or fewer units"),
        ({"method": "saliency"}, "token_rows=False, which leaves out the row of each token"),
        ({"method": "saliency", "token_rows": False}, "a shorter prompt or answer"),
        (
            {"method": "integrated_gradients", "n_steps": 8, "token_rows": True},
            "token_rows=False, which leaves out the row of each token, or larger units, or a smaller n_steps (it is "
            "8), or input_x_gradient, of one pass",
        ),
        (
            {"method": "sequential_integrated_gradients", "token_rows": False},
            "integrated_gradients, one path for all tokens, or input_x_gradient, of one pass",
        ),
        (
            {"method": "gradient_shap", "token_rows": False, "n_samples": 9},
            "a smaller n_samples (it is 9), or input_x_gradient, of one pass",
        ),
        (
            {"method": "noise_tunnel", "token_rows": False, "nt_samples": 6, "n_steps": 3},
            "a smaller nt_samples (it is 6), or input_x_gradient, of one pass",
        ),
    ],
)
def test_only_what_helps_is_named(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], expected: str
) -> None:
    hour = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(running, "monotonic", lambda: float(next(hour)))
    with pytest.warns(RuntimeWarning, match="will take") as told:
        explain(lm, TEXT, target=TARGET, **asked)
    [message] = [str(one.message) for one in told if "will take" in str(one.message)]
    assert message.partition("Quicker: ")[2] == expected
    assert ("at most" in message) == ("until" in asked)


@pytest.mark.parametrize("asked", [{}, {"until": 1e-9}])
def test_a_time_within_a_minute_is_silent(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    hour = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(running, "monotonic", lambda: float(next(hour)))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        explain(lm, TEXT, target=TARGET, method="permutation_shapley", budget="0.1 s", n_samples=500, **asked)
    assert not [one for one in told if "will take" in str(one.message)]


@pytest.mark.parametrize("method", ["gradient_shap", "noise_tunnel"])
def test_random_gradients_say_their_seed(lm: LanguageModel, method: str) -> None:
    options = {"method": method, "target": TARGET, "token_rows": False}
    assert explain(lm, TEXT, **options).provenance["method_seed"] == 0
    assert explain(lm, TEXT, seed=7, **options).provenance["method_seed"] == 7
    assert explain(lm, TEXT, seed=None, **options).provenance["method_seed"] is None
    assert explain(lm, TEXT, **options | {"method": "saliency"}).provenance["method_seed"] is None


def test_the_command_line_leaves_the_form_of_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    before = warnings.formatwarning
    seen: list[Any] = []
    monkeypatch.setattr(cli, "app", lambda **_: seen.append(warnings.formatwarning("slow", UserWarning, "x", 1)))
    cli.main()
    assert seen == ["warning: slow\n"]
    monkeypatch.setattr(cli, "app", lambda **_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(SystemExit):
        cli.main()
    assert warnings.formatwarning is before
