from __future__ import annotations

import numpy as np
import pytest

from llm_attr.errors import InvalidValue
from llm_attr.viz.scale import Scale, extent


def test_shares_keep_zero_and_sign() -> None:
    values = [-2.0, 0.0, 1.0]
    np.testing.assert_allclose(Scale.of(values).shares(values), [-1, 0, 0.5])
    np.testing.assert_allclose(Scale.of(values, limit=1.0).shares(values), [-1, 0, 1])
    odd = [np.nan, np.inf, -np.inf, 5.0]
    np.testing.assert_array_equal(Scale.of(odd).shares(odd), [np.nan, 1, -1, 1])
    nothing = [0.0, -0.0, np.nan]
    np.testing.assert_array_equal(Scale.of(nothing).shares(nothing), [0, 0, np.nan])
    assert Scale.of([]).shares([]).size == 0
    tiny = [[5e-324, 1e-323]]
    assert Scale.of(tiny).shares(tiny).tolist() == [[0.5, 1.0]]
    assert extent([np.nan, np.inf, -4.0]) == 4.0
    assert extent([]) == 0.0


def test_several_arrays_share_a_scale_that_says_so() -> None:
    scale = Scale.of([1.0, -3.0], [[2.0]])
    assert scale.limit == 3.0
    assert scale.description == "ends of the scale: ±3.00 (the largest |value|, shared by 2)"
    assert Scale.of([0.0]).description == "no value other than 0"


@pytest.mark.parametrize("outliers", [0.5, 2.0, 10.0, 50.0])
def test_outliers_are_a_share_of_the_sum(outliers: float) -> None:
    values = np.random.default_rng(0).standard_normal((20, 30)) ** 3
    limit = Scale.of(values, outliers=outliers).limit
    magnitudes = np.abs(values)
    assert limit in magnitudes
    above = magnitudes[magnitudes > limit].sum() / magnitudes.sum()
    assert above <= outliers / 100 <= above + limit / magnitudes.sum()
    assert f"{outliers:g} %" in Scale.of(values, outliers=outliers).description


def test_outliers_of_nothing() -> None:
    assert Scale.of([], outliers=2).limit == 0
    assert Scale.of([0.0, 0.0], outliers=2).limit == 0
    assert Scale.of([np.nan, 1.0, np.inf], outliers=2).limit == 1


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_no_limit_is_refused(limit: float) -> None:
    with pytest.raises(InvalidValue, match="positive finite"):
        Scale.of([1.0], limit=limit)


@pytest.mark.parametrize("outliers", [-1.0, 100.0, float("nan")])
def test_outliers_that_leave_nothing_are_refused(outliers: float) -> None:
    with pytest.raises(InvalidValue, match="percentage"):
        Scale.of([1.0], outliers=outliers)
