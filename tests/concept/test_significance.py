"""Tests beside slow plain references, and significance of a concept that counts and of one that does not."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from llm_attr.concept import TCAV, Concept, ConceptSignificance, ProbeClassifier
from llm_attr.core.concepts.directions import fit_direction
from llm_attr.core.concepts.significance import bootstrap_interval, holm, permutation_test, smallest_p

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_permutation_test_counts_divisions() -> None:
    a, b = torch.tensor([0.9, 0.8, 0.85, 0.4]), torch.tensor([0.5, 0.45, 0.6, 0.3, 0.7])
    pooled, gap = torch.cat([a, b]).double(), float(a.double().mean() - b.double().mean())
    count = total = 0
    for chosen in combinations(range(9), 4):
        rest = [i for i in range(9) if i not in chosen]
        total += 1
        count += abs(float(pooled[list(chosen)].mean() - pooled[rest].mean())) >= abs(gap) - 1e-9
    assert permutation_test(a, b) == pytest.approx(count / total)
    assert permutation_test(torch.ones(5), torch.zeros(5)) == pytest.approx(smallest_p(5, 5))
    assert permutation_test(torch.ones(3), torch.ones(4)) == 1
    many = permutation_test(torch.ones(12), torch.zeros(12))
    assert many == pytest.approx(smallest_p(12, 12))
    exact, drawn = permutation_test(a, b), (1 + count / total * 9_999) / 10_000
    assert drawn == pytest.approx(exact, abs=1e-3)


def test_holm() -> None:
    found = holm(torch.tensor([[0.01, 0.04], [0.03, 0.005]]))
    assert found.tolist() == [pytest.approx([0.03, 0.06]), pytest.approx([0.06, 0.02])]


def test_the_interval() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 2
    low, high = bootstrap_interval(values, 0.95)
    error = float(values.std()) / 20
    assert low == pytest.approx(float(values.mean()) - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(float(values.mean()) + 1.96 * error, abs=0.2 * error)


def test_the_logistic_probe_is_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    draws = torch.Generator().manual_seed(0)
    a, b = torch.randn(20, 30, generator=draws).double() + 0.4, torch.randn(20, 30, generator=draws).double()
    found = fit_direction(a, b, "logistic", penalty=0.05)
    rows = torch.cat([a, b])
    scale = float((rows - rows.mean(0)).square().sum(1).mean().sqrt())
    plain = LogisticRegression(C=1 / (40 * 0.05 * scale**2), tol=1e-10, max_iter=10_000)
    plain.fit(rows.numpy(), [1] * 20 + [0] * 20)
    torch.testing.assert_close(found.weights, torch.from_numpy(plain.coef_[0]), rtol=1e-3, atol=2e-5)
    assert found.bias == pytest.approx(float(plain.intercept_[0]), rel=1e-3, abs=2e-5)


class OneFeature(nn.Module):
    """Only the first entry counts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)[:, 0].tanh()


def found_in(folder: Path, score: str = "sign_count") -> ConceptSignificance:
    draws = torch.Generator().manual_seed(0)

    def concept(number: int, name: str, entry: int | None) -> Concept:
        rows = torch.randn(20, 8, generator=draws)
        if entry is not None:
            rows[:, entry] += 4
        return Concept(number, name, [rows])

    tested = [concept(0, "counts", 0), concept(1, "does not", 3)]
    randoms = [concept(10 + number, "random", None) for number in range(6)]
    tcav = TCAV(OneFeature(), "body", classifier=ProbeClassifier(), save_path=str(folder))
    return tcav.significance(torch.randn(7, 8, generator=draws) * 0.1, tested, randoms, score=score)  # type: ignore[arg-type]


def test_a_concept_that_counts_is_significant(tmp_path: Path) -> None:
    found = found_in(tmp_path, "magnitude")
    assert found.scores.shape == (1, 2, 6)
    assert found.significant().tolist() == [[True, False]]
    assert (found.low <= found.mean).all()
    assert (found.high >= found.mean).all()
    assert found.smallest_p == pytest.approx(2 / 924)
    lines = str(found).splitlines()
    assert lines[1].startswith("body  counts ")
    assert lines[1].endswith("*")
    assert not lines[2].endswith("*")


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = found_in(tmp_path)
    figure, axes = found.plot(title="Which concept counts")
    heights = [bar.get_height() for bar in axes.patches if bar.get_width()]
    assert heights == pytest.approx(found.mean[0].tolist())
    figure.savefig(tmp_path / "out.png")
