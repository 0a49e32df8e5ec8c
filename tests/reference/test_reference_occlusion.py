import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_attr.attr import FeaturePermutation, Occlusion
from tests.reference.occlusion import feature_permutation, occlusion


def mixing(seed: int, *shape: int):
    """A model that mixes all positions."""
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda x: (
        (x * weights).reshape(len(x), -1).sum(1).tanh() + (x**2 * weights).reshape(len(x), -1).cumsum(1).prod(1)
    )


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_occlusion_is_its_definition(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), max_size=3))
    window = [data.draw(st.integers(1, size)) for size in sizes]
    stride = [data.draw(st.integers(1, size)) for size in window]
    batch, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 999))
    x, baseline, forward = drawn(seed, batch, *sizes), drawn(seed + 1, batch, *sizes), mixing(seed + 2, *sizes)
    per_call = data.draw(st.sampled_from([1, 2, None]))
    result = Occlusion(forward).attribute(x, window, stride, baseline, perturbations_per_eval=per_call)
    torch.testing.assert_close(result, occlusion(forward, x, baseline, window, stride), rtol=1e-10, atol=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(2, 4), st.lists(st.integers(1, 3), min_size=1, max_size=2), st.integers(0, 999))
def test_permutation_is_its_definition(batch: int, sizes: list[int], seed: int) -> None:
    x, forward = drawn(seed, batch, *sizes), mixing(seed + 2, *sizes)
    mask = torch.randint(-1, 3, tuple(sizes), generator=torch.Generator().manual_seed(seed))
    orders = []
    draws = torch.Generator().manual_seed(seed)
    for _ in mask.unique():
        order = torch.randperm(batch, generator=draws)
        while torch.equal(order, torch.arange(batch)):
            order = torch.randperm(batch, generator=draws)
        orders.append(order)
    result = FeaturePermutation(forward).attribute(x, feature_mask=mask[None], seed=seed)
    torch.testing.assert_close(result, feature_permutation(forward, x, mask, orders), rtol=1e-10, atol=1e-12)


def test_occlusion_of_a_linear_model_by_hand() -> None:
    """Windows over 1 2 4 and, cut off, over 4 8: they lose 7 and 12."""
    result = Occlusion(lambda x: x.sum(1)).attribute(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), (3,), (2,))
    torch.testing.assert_close(result, torch.tensor([[7.0, 7.0, 9.5, 12.0]]))
