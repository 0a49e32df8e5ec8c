from __future__ import annotations

import captum.attr as captum
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import llm_attr.attr as ours
from llm_attr.attr import (
    MSE,
    ClassSummarizer,
    CommonStats,
    Count,
    Max,
    Mean,
    Min,
    Stat,
    StdDev,
    Sum,
    Summarizer,
    SummarizerSingleTensor,
    Var,
)
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue

ALL = [Mean(), Var(), Var(order=1), StdDev(), StdDev(order=1), MSE(), Min(), Max(), Sum(), Count()]


def stats_of(library: object) -> list:
    names = ("Mean", "StdDev", "MSE", "Min", "Max", "Sum", "Count")
    return [
        *(getattr(library, name)() for name in names),
        library.Var(order=1),
        library.Var(),
        library.StdDev("mine", 1),
    ]


def assert_equal(found: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_equal(found[name], expected[name])
    elif isinstance(expected, list):
        assert isinstance(found, list)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, check_dtype=False)
    else:
        assert found == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 6),
    st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from([torch.float64, torch.float32]),
    st.floats(-1e3, 1e3),
    st.integers(0, 2**16),
)
def test_equal_to_torch(count: int, shape: list[int], dtype: torch.dtype, shift: float, seed: int) -> None:
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) + shift
    summarizer = Summarizer(ALL)
    for row in x:
        summarizer.update(row)
    found, exact = summarizer.summary, x.double()
    close = {"rtol": 1e-3 if dtype == torch.float32 else 1e-7, "atol": 1e-2 if dtype == torch.float32 else 1e-7}
    assert found["count"] == count
    torch.testing.assert_close(found["mean"].double(), exact.mean(0), **close)
    torch.testing.assert_close(found["variance"].double(), exact.var(0, unbiased=False), **close)
    torch.testing.assert_close(found["std_dev"].double(), exact.std(0, unbiased=False), **close)
    torch.testing.assert_close(found["sum"].double(), exact.sum(0), **close)
    torch.testing.assert_close(found["mse"].double(), count * exact.var(0, unbiased=False), **close)
    assert torch.equal(found["min"], x.min(0).values)
    assert torch.equal(found["max"], x.max(0).values)
    if count > 1:
        torch.testing.assert_close(found["sample_variance"].double(), exact.var(0), **close)
        torch.testing.assert_close(found["sample_std_dev"].double(), exact.std(0), **close)


@pytest.mark.parametrize("updates", [1, 2, 5])
@pytest.mark.parametrize("form", ["tensor", "tuple", "number"])
def test_summary_is_captums(updates: int, form: str) -> None:
    generator = torch.Generator().manual_seed(updates)
    one, other = Summarizer(stats_of(ours)), captum.Summarizer(stats_of(captum))
    assert one.summary is other.summary is None
    for _ in range(updates):
        x = torch.randn(3, 2, generator=generator)
        given = {"tensor": x, "tuple": (x, x.sum(1)), "number": x.sum().item()}[form]
        one.update(given)
        other.update(given)
        assert_equal(one.summary, other.summary)


@pytest.mark.parametrize("labels", [None, 1, "cat", (0, 1), [5], [3, 4, 3], ["a", "b", None], [(0, 1), (0, 2), (0, 2)]])
def test_classes_are_captums(labels: object) -> None:
    one, other = ClassSummarizer(stats_of(ours)), captum.ClassSummarizer(stats_of(captum))
    for seed in range(3):
        x = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))
        one.update((x, x[:, 0]), labels)
        other.update((x, x[:, 0]), labels)
    assert_equal(one.summary, other.summary)
    assert_equal(one.class_summaries, other.class_summaries)


def test_a_bare_tensor_with_labels_gives_lists_as_in_captum() -> None:
    x = torch.tensor([[1.0, 2], [3, 4]])
    one, other = ClassSummarizer([Mean()]), captum.ClassSummarizer([captum.Mean()])
    one.update(x, [0, 1])
    other.update(x, [0, 1])
    assert_equal(one.summary, other.summary)
    assert_equal(one.class_summaries, other.class_summaries)


def test_labels_in_tensors_are_numbers_and_tuples() -> None:
    x = torch.tensor([[1.0], [3], [5]])
    summarizer = ClassSummarizer([Mean(), Count()])
    summarizer.update(x, torch.tensor([0, 1, 0]))
    assert_equal(
        summarizer.class_summaries,
        {0: [{"mean": torch.tensor([3.0]), "count": 2}], 1: [{"mean": torch.tensor([3.0]), "count": 1}]},
    )
    summarizer = ClassSummarizer([Count()])
    summarizer.update(x, torch.tensor([[0, 1], [2, 2], [0, 1]]))
    summarizer.update(x, torch.tensor(7))
    summarizer.update(x, torch.tensor([7]))
    assert_equal(summarizer.class_summaries, {(0, 1): [{"count": 2}], (2, 2): [{"count": 1}], 7: [{"count": 6}]})


def test_names() -> None:
    for one, other in zip(CommonStats(), captum.CommonStats(), strict=True):
        assert one.name == other.name
        assert type(one).__name__ == type(other).__name__
    for order in (0, 1, 2):
        assert Var(order=order).name.startswith(captum.Var(order=order).name.rstrip(")"))
    assert Mean("mine").name == "mine"


def test_statistics_of_the_same_kind_are_equal_and_keep_their_names() -> None:
    assert Mean() == Mean("other")
    assert hash(Mean()) == hash(Mean("other"))
    assert Var(order=1) != Var()
    assert Mean() != Count()
    assert Min() != Min(min_fn=torch.fmin)
    summarizer = Summarizer([Mean(), Mean("again"), Var("spread")])
    summarizer.update(torch.tensor([1.0]))
    summarizer.update(torch.tensor([2.0]))
    assert_equal(
        summarizer.summary, {name: torch.tensor([1.5]) for name in ("mean", "again")} | {"spread": torch.tensor([0.25])}
    )


def test_a_statistic_brings_what_it_builds_on() -> None:
    summarizer = SummarizerSingleTensor([StdDev("deviation")], [0])
    for value in (1.0, 3.0):
        summarizer.update(torch.tensor(value))
    assert_equal(summarizer.summary, {"deviation": torch.tensor(1.0)})
    assert summarizer.get(Mean("any")).get() == 2
    assert summarizer.get(Max()) is None


def test_own_statistics() -> None:
    class Range(Stat):
        def init(self) -> None:
            self.low, self.high = self._get_stat(Min()), self._get_stat(Max())

        def update(self, x: Tensor) -> None:
            pass

        def get(self) -> Tensor:
            return self.high.get() - self.low.get()

    summarizer = Summarizer([Range(), Max(max_fn=torch.fmax)])
    summarizer.update(torch.tensor([1.0, torch.nan]))
    summarizer.update(torch.tensor([4.0, 2.0]))
    assert summarizer.summary["range"][0] == 3
    assert summarizer.summary["max"][1] == 2


def test_is_stable_far_from_zero_and_in_half_precision() -> None:
    summarizer = Summarizer([Mean(), Var(), Sum()])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, generator=generator, dtype=torch.float64)
    for value in x:
        summarizer.update(value + 1e9)
    torch.testing.assert_close(summarizer.summary["variance"], x.var(unbiased=False), rtol=1e-5, atol=0)
    half = Summarizer([Mean(), Var(), Sum(), Min()])
    for value in x.half():
        half.update(value + 100)
    assert half.summary["mean"].dtype == half.summary["sum"].dtype == torch.float32
    assert half.summary["min"].dtype == torch.float16
    assert abs(half.summary["sum"] - 2000 * half.summary["mean"]) < 1


def test_whole_numbers() -> None:
    summarizer = Summarizer([Mean(), Sum(), Max()])
    summarizer.update(torch.tensor([1, 2**40]))
    summarizer.update(torch.tensor([2, 2**40 + 1]))
    assert summarizer.summary["mean"].tolist() == [1.5, 2**40 + 0.5]
    assert summarizer.summary["sum"].tolist() == [3, 2**41 + 1]


def test_keeps_neither_the_callers_tensor_nor_its_graph() -> None:
    x = torch.ones(2, requires_grad=True)
    summarizer = Summarizer([*CommonStats(), Sum()])
    y = 1 * x
    summarizer.update(y)
    with torch.no_grad():
        y.zero_()
    assert all(
        value.tolist() == [1, 1] for name, value in summarizer.summary.items() if name in ("min", "max", "sum", "mean")
    )
    assert not any(value.requires_grad for value in summarizer.summary.values())


def test_a_list_of_statistics_serves_several_summarizers() -> None:
    stats = CommonStats()
    one, other = Summarizer(stats), Summarizer(stats)
    one.update(1.0)
    other.update(3.0)
    assert (one.summary["mean"], other.summary["mean"]) == (1, 3)
    assert stats[0].get() is None


def test_errors() -> None:
    summarizer = Summarizer([Mean()])
    summarizer.update((torch.ones(2), torch.ones(3)))
    with pytest.raises(InvalidShape, match="tuple of 2"):
        summarizer.update(torch.ones(2))
    with pytest.raises(InvalidShape, match="tuple of 2"):
        summarizer.update((torch.ones(2),))
    with pytest.raises(InvalidType, match="str"):
        summarizer.update("ones")  # type: ignore[arg-type]
    with pytest.raises(InvalidType, match="statistics"):
        Summarizer([Mean])  # type: ignore[list-item]
    with pytest.raises(InvalidType, match="statistics"):
        Summarizer(Mean())  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="Summarizer"):
        Mean().init()
    classes = ClassSummarizer([Mean()])
    with pytest.raises(InvalidShape, match="3 examples; got 2"):
        classes.update(torch.ones(3, 1), [1, 2])
    with pytest.raises(InvalidType, match="keys"):
        classes.update(torch.ones(2, 1), [[1], [2]])
    with pytest.raises(InvalidType, match="tensor"):
        classes.update(3.0, 1)
    assert classes.summary is None
