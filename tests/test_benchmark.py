import json
import math
from typing import Any

import pytest
import torch

from llm_attr.benchmark import BASELINES, METHODS, Benchmark, Record, run
from llm_attr.benchmark.baselines import bm25, last, longest, own_citation
from llm_attr.data import Item, items
from llm_attr.errors import InvalidType, InvalidValue, UnknownName
from tests.zoo import tiny

GENERATOR = torch.Generator()


def record(method: str, item: str, found: float, kind: str = "single_fact", top: float | None = 1.0) -> Record:
    return Record(item, kind, method, found, top, 0.3, float("nan"), 4, 0.5)


def test_rows_are_means_with_intervals_over_items() -> None:
    values = [1.0, 0.0, 1.0, 1.0]
    records = [record("a", str(place), value) for place, value in enumerate(values)]
    records += [record("b", str(place), 0.5, "two_hops", None) for place in range(4)]
    found = Benchmark("tiny", tuple(records), 0.125, 0)
    first, second = found.rows()
    assert first.means["found"] == 0.75
    low, high = first.intervals["found"]
    assert 0 <= low < 0.75 < high <= 1
    assert math.isnan(second.means["top_1"])
    assert [row.method for row in found.rows("two_hops")] == ["b"]
    table = found.to_markdown()
    assert "| a | 0.75 ± " in table
    assert "| b | 0.50 ± 0.00 | – |" in table
    assert "| a | 0.75 ± 0.38 | – |" in table.splitlines()[-2]
    plain = json.loads(found.to_json())
    assert plain["records"][0]["lds"] is None
    assert plain["chance"] == 0.125


def test_baselines_follow_their_definitions() -> None:
    units = ("Ann has a red cart.", "The cart of Bo is old and very heavy.", "Ann sings.")
    item = Item("x", "single_fact", "text", units, "What does Ann have?", "a cart", (0,), False)
    lm: Any = None
    assert last(lm, item, GENERATOR).tolist() == [0, 1, 2]
    assert longest(lm, item, GENERATOR).tolist() == [19, 37, 10]
    lengths, mean = [5, 9, 2], 16 / 3
    holders = {"what": 0, "does": 0, "ann": 2, "have": 0, "a": 1, "cart": 2}
    held = [{"ann": 1, "a": 1, "cart": 1}, {"cart": 1}, {"ann": 1}]
    expected = [
        sum(
            math.log(1 + (3 - holders[word] + 0.5) / (holders[word] + 0.5)) * 2.5 * count
            / (count + 1.5 * (0.25 + 0.75 * length / mean))
            for word, count in words.items()
        )
        for words, length in zip(held, lengths, strict=True)
    ]  # fmt: skip
    torch.testing.assert_close(bm25(lm, item, GENERATOR), torch.tensor(expected))


def test_a_run_judges_every_method_on_every_item() -> None:
    lm = tiny("llama")
    units = ("Bo is in Oslo.", "It rains.", "Ann sings.", "A cat sat.")
    chosen = [
        Item("one", "single_fact", "text", units, "Where is Bo?", "Oslo", (0,), False),
        Item("two", "two_hops", "text", units, "Who?", "Ann", (0, 2), False),
    ]
    state = torch.get_rng_state()
    found = run(lm, {"feature_ablation": {}, "kernel_shap": {"n_samples": 20}}, items=chosen, with_baselines=False)
    assert torch.equal(state, torch.get_rng_state())
    assert [(each.method, each.kind) for each in found.records] == [
        (method, kind) for method in ("feature_ablation", "kernel_shap") for kind in ("single_fact", "two_hops")
    ]
    assert all(0 <= each.found <= 1 and each.passes > 0 and -1 <= each.lds <= 1 for each in found.records)
    assert [each.top_1 is None for each in found.records] == [False, True, False, True]
    again = run(lm, {"kernel_shap": {"n_samples": 20}}, items=chosen, with_baselines=False)
    same = [each for each in found.records if each.method == "kernel_shap"]
    for first, second in zip(again.records, same, strict=True):
        assert (first.found, first.lds) == (second.found, second.lds)
        assert first.deletion == pytest.approx(second.deletion, rel=1e-4)  # by the rounding of batches
    assert own_citation(lm, chosen[0], GENERATOR).shape == (len(chosen[0].units),)


def test_wrong_input_is_refused() -> None:
    lm = tiny("llama")
    with pytest.raises(UnknownName, match="kernel_shape"):
        run(lm, ["kernel_shape"], items=items(count=1))
    with pytest.raises(InvalidType, match="LanguageModel"):
        run(object(), items=items(count=1))  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="at least one item"):
        run(lm, items=[])
    with pytest.raises(InvalidValue, match="no source"):
        run(lm, items=[items(count=1)[0].removed()])
    with pytest.raises(InvalidType, match="Items"):
        run(lm, items=["x"])  # type: ignore[list-item]


def test_names() -> None:
    assert len(METHODS) >= 10
    assert list(BASELINES) == ["random", "position", "length", "BM25", "embedding", "own citation"]
