"""Explanations with a ledger on disk: the same results, and nothing is computed twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_attr import LanguageModel, Progress, Prompt, explain, plan, watching
from llm_attr.core.game.ledger_file import LedgerFile
from llm_attr.errors import BrokenFile, Cancelled, InvalidValue, UnknownKeyword
from llm_attr.llm.model import fingerprint
from llm_attr.llm.target.scalar import kl
from tests.zoo import tiny, tiny_model, tokenizer_of

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "Aksel lives in Odense. He repairs violins. He has a dog. It rains in the north."
ANSWER = " He sings."
SAMPLED: dict[str, Any] = {"method": "kernel_shap", "n_samples": 16, "seed": 1, "target": ANSWER}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.ledger"


@pytest.fixture
def lm() -> LanguageModel:
    return tiny("llama")


def flat(found: Any) -> list[Any]:
    return [result for one in found for result in flat(one)] if isinstance(found, list) else [found]


def counted(found: Any) -> list[tuple[int, int, int]]:
    """Passes, variants, and how many of them the ledger had."""
    keys = ("passes", "variants", "from_ledger")
    return [tuple(result.provenance[key] for key in keys) for result in flat(found)]  # type: ignore[misc]


def assert_same(found: Any, expected: Any) -> None:
    """Up to rounding: a variant may have been scored in other company."""
    for one, other in zip(flat(found), flat(expected), strict=True):
        for name in ("seq_attr", "token_attr", "stderr", "output_probs"):
            parts = getattr(one, name), getattr(other, name)
            torch.testing.assert_close(*parts, rtol=1e-4, atol=1e-4)


CASES: dict[str, dict[str, Any]] = {
    "leave one out": {"prompt": TEXT, "target": ANSWER},
    "sampled": {"prompt": TEXT, **SAMPLED},
    "until": {"prompt": TEXT, "target": ANSWER, "method": "permutation_shapley", "until": 0.5, "seed": 1},
    "several": {"prompt": [TEXT, "A b. C d."], **SAMPLED},
    "scalars": {"prompt": TEXT, **SAMPLED, "scalar": ["log_prob", "prob", "logit", "entropy", "margin"]},
    "kl": {"prompt": [TEXT, "A b. C d."], **SAMPLED, "scalar": ["kl", "entropy"]},
    "foil": {"prompt": TEXT, **SAMPLED, "foil": " She runs off."},
    "masked": {"prompt": Prompt(TEXT, unit="sentence", absence="mask"), **SAMPLED},
    "replaced": {"prompt": Prompt(TEXT, unit="sentence", absence="replace"), **SAMPLED},
    "without cache": {"prompt": TEXT, **SAMPLED, "use_cached_outputs": False},
    "one at a time": {"prompt": TEXT, **SAMPLED, "perturbations_per_eval": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_asking_again_costs_nothing(case: str, lm: LanguageModel, path: Path) -> None:
    expected = explain(lm, **CASES[case])
    first = explain(lm, ledger=path, **CASES[case])
    assert_same(first, expected)
    assert [numbers[2] for numbers in counted(first)] == [0] * len(flat(first))
    restarted = LanguageModel(tiny_model("llama"), tokenizer_of("byte_bos"), "another name")
    planned = plan(restarted, ledger=path, measure=False, **CASES[case])
    again = explain(restarted, ledger=path, **CASES[case])
    assert_same(again, first)
    assert [(passes, known) for passes, _, known in counted(again)] == [(0, n) for _, n, _ in counted(first)]
    assert {result.provenance["scoring"] for result in flat(again)} == {"read from the ledger"}
    if case != "until":
        assert (planned.passes, planned.positions, planned.from_ledger) == (0, 0, planned.evaluations)
        assert "from ledger:" in str(planned)


def test_plan_before_and_after(lm: LanguageModel, path: Path) -> None:
    before = plan(lm, TEXT, ledger=path, measure=False, **SAMPLED)
    assert before == plan(lm, TEXT, measure=False, **SAMPLED)
    assert LedgerFile(path).stats() == []
    explain(lm, TEXT, ledger=path, target=ANSWER)
    part = plan(lm, TEXT, ledger=path, measure=False, **SAMPLED)
    result = explain(lm, TEXT, ledger=path, **SAMPLED)
    assert 0 < part.from_ledger < part.evaluations == before.evaluations
    assert part.positions == result.provenance["positions"] < before.positions
    assert part.from_ledger == result.provenance["from_ledger"]


def test_other_methods_regions_and_quantities_read_the_same_scores(lm: LanguageModel, path: Path) -> None:
    explain(lm, TEXT, ledger=path, target=ANSWER, method="shapley_values")
    for more in ({}, {"method": "banzhaf"}, {"scalar": "prob"}, {"region": "sings"}):
        assert explain(lm, TEXT, ledger=path, target=ANSWER, **more).provenance["passes"] == 0  # type: ignore[arg-type]
    assert explain(lm, TEXT, ledger=path, target=ANSWER, scalar="logit").provenance["passes"] > 0
    assert explain(lm, TEXT, ledger=path, target=" no").provenance["from_ledger"] == 0
    assert explain(lm, TEXT + " ", ledger=path, target=ANSWER).provenance["from_ledger"] == 0


def one_weight(lm: LanguageModel) -> None:
    with torch.no_grad():
        lm.model.get_output_embeddings().weight[7, 3] += 0.5


def configuration(lm: LanguageModel) -> None:
    lm.model.config.rms_norm_eps *= 2


def hook(lm: LanguageModel) -> None:
    lm.model.lm_head.register_forward_hook(lambda module, given, logits: logits * 0.5)


def template(lm: LanguageModel) -> None:
    lm.tokenizer.chat_template = "{{ messages }}"  # type: ignore[union-attr]


def more_tokens(lm: LanguageModel) -> None:
    lm.tokenizer.add_tokens(["violins"])  # type: ignore[union-attr]


def kernel(lm: LanguageModel) -> None:
    lm.model.set_attn_implementation("eager")


def dtype(lm: LanguageModel) -> None:
    lm.model.to(torch.float64)


@pytest.mark.parametrize("change", [one_weight, configuration, hook, template, more_tokens, kernel, dtype])
def test_a_changed_model_reads_nothing(change: Callable[[LanguageModel], None], path: Path) -> None:
    tokenizer = tokenizer_of("byte_bos")
    lm = LanguageModel(tiny_model("llama"), type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer))
    lm.tokenizer.bos_token, lm.tokenizer.eos_token = tokenizer.bos_token, tokenizer.eos_token  # type: ignore[union-attr]
    explain(lm, TEXT, ledger=path, target=ANSWER)
    assert explain(lm, TEXT, ledger=path, target=ANSWER).provenance["passes"] == 0
    change(lm)
    changed = explain(lm, TEXT, ledger=path, target=ANSWER)
    assert changed.provenance["from_ledger"] == 0
    assert_same(changed, explain(lm, TEXT, target=ANSWER))
    assert len(LedgerFile(path).stats()) == 2


def test_precision_is_part_of_the_model(lm: LanguageModel, path: Path) -> None:
    explain(lm, TEXT, ledger=path, target=ANSWER)
    half = [explain(lm, TEXT, ledger=path, target=ANSWER, precision="bf16").provenance["from_ledger"] for _ in range(2)]
    assert half == [0, 5]


def test_absence_is_in_the_tokens(lm: LanguageModel, path: Path) -> None:
    for absence in ("delete", "mask", "replace"):
        prompt = Prompt(TEXT, unit="word", absence=absence)  # type: ignore[arg-type]
        found = explain(lm, prompt, ledger=path, target=ANSWER)
        assert found.provenance["from_ledger"] == (0 if absence == "delete" else 1), "only the full prompt is shared"
        assert_same(found, explain(lm, prompt, target=ANSWER))


def test_every_byte_counts() -> None:
    model = tiny_model("llama")
    before, seen = fingerprint.checksum(model), set[str]()
    for weight in model.parameters():
        with torch.no_grad():
            weight.view(-1)[-1] += 1
        seen.add(fingerprint.checksum(model))
    assert before not in seen
    assert len(seen) == len(list(model.parameters()))
    assert fingerprint.checksum(tiny_model("llama")) == before


def squared(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0].square()


def test_a_function_is_scored_each_time(lm: LanguageModel, path: Path) -> None:
    expected = explain(lm, TEXT, target=ANSWER, scalar=squared)
    for _ in range(2):
        with pytest.warns(
            UserWarning, match="the ledger keeps no values of squared: its variants are scored each time"
        ):
            found = explain(lm, TEXT, target=ANSWER, scalar=squared, ledger=path)
        assert_same(found, expected)
        assert counted(found)[0][2] == 0
    assert explain(lm, TEXT, target=ANSWER, ledger=path).provenance["passes"] == 0


def test_a_reference_counts_by_its_values(lm: LanguageModel, path: Path) -> None:
    first, second = torch.randn(2, 7, lm.model.config.vocab_size).log_softmax(-1)
    for reference, known in ((first, 0), (first.clone(), 5), (second, 0)):
        found = explain(lm, TEXT, target=ANSWER, scalar=kl(reference), ledger=path)
        assert found.provenance["from_ledger"] == known
        assert_same(found, explain(lm, TEXT, target=ANSWER, scalar=kl(reference)))


def test_what_was_scored_before_the_end_stays(lm: LanguageModel, path: Path) -> None:
    stop = threading.Event()

    def see(progress: Progress) -> None:
        if progress.done >= 6:
            stop.set()

    asked: dict[str, Any] = {**SAMPLED, "ledger": path, "perturbations_per_eval": 2}
    with watching(see, cancel=stop), pytest.raises(Cancelled):
        explain(lm, TEXT, **asked)
    assert 6 <= explain(lm, TEXT, **asked).provenance["from_ledger"] < 16


def test_a_budget_pays_only_for_what_is_new(lm: LanguageModel, path: Path) -> None:
    asked: dict[str, Any] = {"target": ANSWER, "unit": "word", "method": "permutation_shapley", "budget": "4 passes"}
    first, second = (explain(lm, TEXT, ledger=path, **asked) for _ in range(2))
    assert second.provenance["passes"] <= 4
    assert second.provenance["n_samples"] > first.provenance["n_samples"]


def test_without_a_fingerprint(lm: LanguageModel, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "weights_hash", lambda model: fingerprint.OFFLOADED)
    with pytest.raises(InvalidValue, match="the weights of tiny llama are offloaded, so a ledger cannot tell them"):
        explain(lm, TEXT, target=ANSWER, ledger=path)


def test_what_is_refused(lm: LanguageModel, path: Path) -> None:
    with pytest.raises(UnknownKeyword, match="ledger"):
        explain(lm, TEXT, target=ANSWER, ledger=path, method="saliency")
    path.write_text("a text" * 1000)
    with pytest.raises(BrokenFile):
        explain(lm, TEXT, target=ANSWER, ledger=path)
