"""An answer against a foil: both scored in one tree, tokens beside each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_attr import LanguageModel, explain
from llm_attr.llm.target.scalar import Contrast, contrast
from tests.llm.quantities import FAMILIES, FOIL, TARGET, TEXT, ids_of, leave_one_out, model_of, slow


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return model_of("llama")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("foil", [FOIL, " He", " He likes fishing. He likes", [7, 300], " likes."])
def test_contrast_against_two_plain_runs(family: str, foil: Any) -> None:
    lm = model_of(family)
    result = explain(lm, TEXT, target=TARGET, foil=foil)
    answer, other = ids_of(lm, TARGET), ids_of(lm, foil) if isinstance(foil, str) else foil
    design = leave_one_out(4)
    own, others = slow(lm, "log_prob", design, answer), slow(lm, "log_prob", design, other)
    whole = own[:, 0] - others[:, 0]
    assert (result.seq_attr - (whole[0] - whole[1:])).abs().max() < 1e-3
    torch.testing.assert_close(result.token_attr.sum(0), result.seq_attr, rtol=1e-4, atol=1e-3)
    shared = next(i for i, (a, b) in enumerate(zip([*answer, -1], [*other, -2], strict=False)) if a != b)
    assert (result.token_attr[: min(shared, len(answer) - 1)].abs() < 1e-3).all()
    assert result.provenance["foil"] == lm.decode(list(other))
    assert result.for_output(slice(0, 2)).seq_attr.tolist() == pytest.approx(result.token_attr[:2].sum(0), abs=1e-4)


def test_a_foil_shares_the_tree_of_the_answer(lm: LanguageModel) -> None:
    explain(lm, TEXT, target=TARGET)
    alone = explain(lm, TEXT, target=TARGET).provenance
    beside = explain(lm, TEXT, target=TARGET, foil=FOIL).provenance
    answer, foil = ids_of(lm, TARGET), ids_of(lm, FOIL)
    shared = next(i for i, (a, b) in enumerate(zip(answer, foil, strict=False)) if a != b)
    assert shared > 0
    assert beside["passes"] <= alone["passes"] + 1
    assert beside["positions"] == alone["positions"] + 5 * (len(foil) - 1 - shared)


def test_a_foil_of_a_generated_answer_ends_as_it_does(lm: LanguageModel) -> None:
    end = min(lm.end_ids)
    ended = contrast(FOIL).bound(lm, (5, 6, end))
    assert ended.contrast.foil == (*ids_of(lm, FOIL), end)
    assert contrast(FOIL).bound(lm, (5, 6)).contrast.foil == tuple(ids_of(lm, FOIL))
    assert contrast([3, 4]).bound(lm, (5, 6, end)).contrast.foil == (3, 4)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_rows_of_a_contrast_add_up(data: st.DataObject) -> None:
    ids = st.lists(st.integers(0, 3), min_size=1, max_size=7).map(tuple)
    answer, foil = data.draw(ids), data.draw(ids)
    own, other = torch.rand(3, len(answer)).double(), torch.rand(3, len(foil)).double()
    rows = Contrast(answer, foil).rows(own, other)
    assert rows.shape == own.shape
    torch.testing.assert_close(rows.sum(1), own.sum(1) - other.sum(1))


@pytest.mark.parametrize(
    ("answer", "foil", "expected"),
    [
        ((1, 2, 3), (1, 5, 3), [0.9, 1.8, 2.7]),
        ((1, 2, 3), (1, 3), [0.9, 2.0, 2.8]),
        ((1, 3), (1, 5, 6, 3), [0.9, 2 - 0.2 - 0.3 - 0.4]),
        ((1, 2), (1, 2, 3), [0.9, 2 - 0.2 - 0.3]),
        ((1, 2, 3), (5,), [1 - 0.1 / 3, 2 - 0.1 / 3, 3 - 0.1 / 3]),
        ((2, 2), (2,), [0.9, 2.0]),
    ],
)
def test_tokens_beside_each_other(answer: tuple[int, ...], foil: tuple[int, ...], expected: list[float]) -> None:
    own, other = torch.arange(1.0, len(answer) + 1), torch.arange(1.0, len(foil) + 1) / 10
    assert Contrast(answer, foil).rows(own, other).tolist() == pytest.approx(expected)
