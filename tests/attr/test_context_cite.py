from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from llm_attr.attr import ContextCite
from llm_attr.core.estimators.random_ablations import AblationLasso
from llm_attr.errors import InvalidValue

pytestmark = pytest.mark.usefixtures("one_thread")


def by_pipeline(rows: Tensor, log_prob: Tensor, tokens: int, alpha: float) -> np.ndarray:
    """As the paper has it: the logit of the answer's probability, per token, on standardised presences."""
    logit = log_prob.double() - torch.log1p(-log_prob.double().exp())
    scaler, lasso = StandardScaler(), Lasso(alpha)
    make_pipeline(scaler, lasso).fit(rows.double().numpy(), logit.numpy() / tokens)
    return lasso.coef_ / scaler.scale_ * tokens


def text(samples: int = 64) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    rows = torch.rand(samples, 6, generator=draws) < 0.5
    slopes = torch.tensor([[0.5, 0.0, 3.0], [0.0, 0.1, 0.0], [2.0, 2.0, 0.0], *[[0.0] * 3] * 3])
    log_probs = -torch.nn.functional.softplus(2 - rows.float() @ slopes)
    return rows, torch.cat([log_probs.sum(1, keepdim=True), log_probs], 1)


@pytest.mark.parametrize("alpha", [0.01, 0.2])
def test_a_text_gives_logits_of_the_whole_and_of_each_token(alpha: float) -> None:
    rows, values = text()
    found = AblationLasso(alpha=alpha).estimate(rows, values)
    np.testing.assert_allclose(found.values[:, 0], by_pipeline(rows, values[:, 0], 3, alpha), atol=1e-5)
    for token in range(1, 4):
        np.testing.assert_allclose(found.values[:, token], by_pipeline(rows, values[:, token], 1, alpha), atol=1e-5)
    assert found.kind == "bootstrap"
    assert found.stderr is not None
    assert found.stderr.shape == (6, 4)
    assert AblationLasso(refits=0).estimate(rows, values).stderr is None


def test_probabilities_of_nearly_one_and_nearly_zero() -> None:
    rows, _ = text(20)
    values = torch.where(rows[:, :1], torch.tensor(0.0), torch.tensor(-500.0))
    found = AblationLasso().estimate(rows, values).values
    assert found.isfinite().all()
    assert found[0] > 500
    with pytest.raises(InvalidValue, match=r"must be log-probabilities.*got 0.5"):
        AblationLasso().estimate(rows, values + 0.5)


def test_a_feature_that_is_always_present_gets_nothing() -> None:
    rows, values = text(30)
    rows[:, 4] = True
    assert (AblationLasso().estimate(rows, values).values[4] == 0).all()


def test_tensors_are_taken_as_they_are() -> None:
    x = torch.tensor([[3.0, 0.0, -1.0], [1.0, 2.0, 3.0]])
    method = ContextCite(lambda x: x.sum(1))
    torch.testing.assert_close(method.attribute(x, alpha=0.0), x, atol=1e-4, rtol=0)
    found, errors = method.attribute(x, alpha=0.1, return_stderr=True)
    assert found[0, 1] == errors[0, 1] == 0
    assert 0 < found[0, 0] < 3
    logits = ContextCite(lambda x: torch.nn.functional.logsigmoid(x.sum(1))).attribute(x, alpha=0.0, log_prob=True)
    torch.testing.assert_close(logits, x, atol=1e-3, rtol=0)


def test_the_probability_of_being_kept() -> None:
    method, x = ContextCite(lambda x: x.sum(1)), torch.ones(1, 10)
    rows = torch.cat([row for row, _ in zip(AblationLasso(keep=0.9).rounds(10), range(200), strict=False)])
    assert rows.float().mean().item() == pytest.approx(0.9, abs=0.02)
    for keep in (0, 1, 1.5):
        with pytest.raises(InvalidValue, match="a probability between 0 and 1"):
            method.attribute(x, keep=keep)
    with pytest.raises(InvalidValue, match="refits must be 0 or at least 2"):
        AblationLasso(refits=1)
