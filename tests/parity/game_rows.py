"""Rows of the table: ablation, occlusion, permutation and Shapley values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.core.target import select
from tests.parity.cases import IDS, MOVED, Case, random, sites
from tests.parity.game_cases import ABLATION, AGGREGATES, PERMUTATION, SHAPLEY, WINDOWS
from tests.parity.models import made
from tests.parity.table import Close, Options, Row, at_layers, at_neurons

EXACT = Close(1e-8)
SHAPLEY_CLOSE = Close(1e-6, 1e-9, single=(1e-4, 2e-6))
"""Captum answers in single precision where there are several outputs."""


def per_call(*sizes: int | None) -> tuple[Options, ...]:
    """Ways to group coalitions into calls."""
    return tuple({"perturbations_per_eval": size} for size in sizes)


def grows(name: str, forward: Callable[..., Any]) -> bool:
    """Whether the output grows with the batch, so that coalitions may share a call."""
    return "number" not in name or isinstance(forward, nn.Module)


def ablations() -> Iterator[Row]:
    for name, (forward, inputs, options) in ABLATION.items():
        ways = per_call(1, 2, 7, None)
        yield Row("FeatureAblation", name, (forward,), inputs, options, ways=ways, close=Close(1e-8, 1e-8))
    for name, (forward, inputs, options) in AGGREGATES.items():
        ways = per_call(1, None)
        yield Row("FeatureAblation", name, (forward,), inputs, options, ways=ways, close=Close(1e-8, 1e-8))


def windows() -> Iterator[Row]:
    for name, (forward, inputs, shapes, options) in WINDOWS.items():
        ways = per_call(1, 3, None) if grows(name, forward) else per_call(1, None)
        said = {"sliding_window_shapes": shapes, **options}
        yield Row("Occlusion", name, (forward,), inputs, said, ways=ways, close=Close(single=(1e-6, None)))


def permutations() -> Iterator[Row]:
    for name, (forward, inputs, options) in PERMUTATION.items():
        ways = per_call(1, 2, None) if grows(name, forward) else per_call(1, None)
        kind: Options = {"ways": ways, "close": EXACT, "seeded": True, "stream": True}
        yield Row("FeaturePermutation", name, (forward,), inputs, options, **kind)
    kind = {"ways": per_call(1, None), "close": EXACT, "seeded": True, "stream": True}
    for name, layer in sites(MOVED):
        if not layer.endswith(":"):
            yield _layer_permutation(MOVED[name], name, layer, **kind)
    mask = torch.arange(3).view(1, 3, 1, 1)
    yield _layer_permutation(MOVED["cnn"], "cnn", "0", {"layer_mask": mask}, close=EXACT, seeded=True)


def _layer_permutation(case: Case, name: str, layer: str, more: Options = {}, **kind: Any) -> Row:  # noqa: B006
    """Captum selects the target twice and fails: its forward function selects by itself here."""
    module, _ = case.at(layer)
    options = {**case.options, **more}
    target = options.pop("target", None)

    def selected(*args: Any) -> Tensor:
        return select(case.model(*args), target)

    ways = kind.pop("ways", ({},))
    ways = tuple({"target": target, **way} for way in ways)
    args = (case.model, module)
    where = f"{name}, {layer}"
    return Row(
        "LayerFeaturePermutation", where, args, case.inputs, options, ways=ways, theirs=(selected, module), **kind
    )


def shapley_values() -> Iterator[Row]:
    for name, (forward, inputs, options) in SHAPLEY.items():
        ways = per_call(None, 1, 3) if isinstance(forward, nn.Module) else per_call(None, 1)
        yield Row("ShapleyValues", name, (forward,), inputs, options, ways=ways, close=SHAPLEY_CLOSE)
        for count in (1, 4):
            kind: Options = {"close": SHAPLEY_CLOSE, "seeded": True, "stream": True}
            yield Row("ShapleyValueSampling", name, (forward,), inputs, {"n_samples": count, **options}, **kind)


def layers() -> Iterator[Row]:
    kind: Options = {"ways": per_call(1, None), "close": EXACT}
    yield from at_layers("LayerFeatureAblation", MOVED | IDS, **kind)
    for name, layer, options in _moved_layers():
        case = (MOVED | IDS)[name]
        module, to_input = case.at(layer)
        said = {"attribute_to_layer_input": to_input, **case.options, **options}
        yield Row("LayerFeatureAblation", f"{name}, {layer}", (case.model, module), case.inputs, said, **kind)
    case = MOVED["mlp, int"]
    module, _ = case.at("0")
    for target in (None, 1):
        yield Row(
            "LayerFeatureAblation", "mlp, other outputs", (case.model, module), case.inputs, {"target": target}, **kind
        )

    def total(x: Tensor) -> Tensor:
        return case.model(x).prod()

    yield Row("LayerFeatureAblation", "one number for the batch", (total, module), case.inputs, close=EXACT)
    turned = made(Turned())
    for inputs in (random(2, 5, 3), random(3, 3, 3)):
        said = {"target": 1, "attribute_to_layer_input": True}
        yield Row("LayerFeatureAblation", "batch on the second axis", (turned, turned.rnn), inputs, said, **kind)


def _moved_layers() -> Iterator[tuple[str, str, Options]]:
    """Layers with baselines and masks of their own, of which the shapes are known."""
    for name, layer, shape in (
        ("mlp, int", "0", (3, 6)),
        ("cnn", "0", (2, 3, 3, 3)),
        ("cnn", "5:", (2, 3)),
        ("lstm", "head:", (3, 4)),
    ):
        yield name, layer, {"layer_baselines": 2}
        yield name, layer, {"layer_baselines": random(1, *shape[1:], seed=7)}
        mask = torch.arange(shape[1]).view(1, -1, *(1,) * (len(shape) - 2)) // 2
        yield name, layer, {"layer_baselines": random(*shape, seed=8), "layer_mask": mask}
    yield "tuples", "fork", {"layer_baselines": (0.5, random(1, 2))}
    yield "tuples", "fork", {"layer_mask": (torch.tensor([[0, 1, 1]]), torch.tensor([[1, 2]]))}
    yield "tuples", "join:", {"layer_baselines": (random(3, 3), -1)}


class Turned(nn.Module):
    """Its layer's first axis is not the batch: several coalitions do not share a call."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.transpose(0, 1))[0][-1])


def neurons() -> Iterator[Row]:
    kind: Options = {"ways": per_call(1, 3, None), "close": EXACT}
    yield from at_neurons("NeuronFeatureAblation", MOVED, lambda case: [{"baselines": case.baselines}], **kind)
    case = MOVED["mlp, int"]
    mask = torch.tensor([[0, 1, 1, 0]])
    for selector in ((slice(0, 2),), (slice(None),), lambda u: u.sum(1)):
        options = {"neuron_selector": selector, "feature_mask": mask}
        args = (case.model, case.model[0])
        yield Row("NeuronFeatureAblation", "mlp, neurons added up", args, case.inputs, options, close=EXACT)
    case = IDS["embedding"]
    options = {"neuron_selector": (1, 2), "baselines": 7}
    options["additional_forward_args"] = case.options["additional_forward_args"]
    args = (case.model, case.model.encoder)
    yield Row("NeuronFeatureAblation", "token ids", args, case.inputs, options, close=EXACT)


def all_games() -> Iterator[Row]:
    for rows in (ablations, windows, permutations, shapley_values, layers, neurons):
        yield from rows()
