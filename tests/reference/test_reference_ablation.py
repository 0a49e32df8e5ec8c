import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_attr.attr import FeatureAblation
from tests.reference.ablation import feature_ablation


@st.composite
def cases(draw: st.DrawFn) -> dict:
    """Random shapes, masks and baselines for one or two inputs; the model mixes all positions and both inputs."""
    batch = draw(st.integers(1, 3))
    shapes = draw(st.lists(st.lists(st.integers(1, 3), max_size=2).map(tuple), min_size=1, max_size=2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    inputs = tuple(torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for shape in shapes)
    baselines = tuple(torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in inputs)
    outputs = draw(st.sampled_from(["example", "example columns", "batch", "batch vector"]))
    rows = batch if outputs == "example" and draw(st.booleans()) else 1
    masks = tuple(torch.randint(-2, 4, (rows, *x.shape[1:]), generator=generator) for x in inputs)
    weights = [torch.randn(x[0].numel(), 2, generator=generator, dtype=torch.float64) for x in inputs]

    def forward(*points: torch.Tensor) -> torch.Tensor:
        hidden = sum(x.reshape(len(x), -1) @ w for x, w in zip(points, weights, strict=True)).tanh()
        columns = torch.stack([hidden.prod(1), hidden.exp().sum(1)], 1)
        answers = {"example": columns[:, 0], "example columns": columns, "batch": columns.sum()}
        return answers[outputs] if outputs in answers else columns.prod(0)

    given_mask = draw(st.booleans()) or rows > 1
    return {
        "forward": forward,
        "inputs": inputs,
        "baselines": baselines,
        "masks": masks if given_mask else None,
        "per_call": draw(st.sampled_from([None, 1] if outputs.startswith("batch") else [None, 1, 2, 5])),
    }


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_equal_to_the_definition(case: dict) -> None:
    inputs, masks = case["inputs"], case["masks"]
    result = FeatureAblation(case["forward"]).attribute(
        inputs, case["baselines"], feature_mask=masks, perturbations_per_eval=case["per_call"]
    )
    if masks is None:
        sizes = [x[0].numel() for x in inputs]
        numbers = torch.arange(sum(sizes)).split(sizes)
        masks = tuple(part.view(1, *x.shape[1:]) for part, x in zip(numbers, inputs, strict=True))
    full = [mask.expand(x.shape) for mask, x in zip(masks, inputs, strict=True)]
    expected = feature_ablation(case["forward"], inputs, case["baselines"], full)
    for got, want in zip(result, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_a_linear_model_by_hand() -> None:
    """With weights w, input x and baseline b the attribution is w (x - b), whatever the other positions are."""
    weights = torch.tensor([2.0, -1.0, 0.5])
    x, baseline = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    result = FeatureAblation(lambda points: points @ weights).attribute(x, baseline)
    torch.testing.assert_close(result, torch.tensor([[0.0, -1.0, 1.0], [-2.0, 2.0, 1.5]]))
