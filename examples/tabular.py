"""Which measurements make a network expect a diabetes patient to get worse? Five methods, with their error.

Run: python examples/tabular.py --out tabular.png   (needs the extras plot and surrogates)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

from llm_attr.attr import FeatureAblation, IntegratedGradients, KernelShap, Ledger, PermutationShapley, ShapleyValues
from llm_attr.viz.colour import DARK, LIGHT

NAMES = ("age\n", "sex\n", "BMI\n", "blood\npressure", "total\ncholesterol", "LDL\n", "HDL\n", "cholesterol\n/ HDL",
         "triglycerides\n(log)", "glucose\n")  # fmt: skip
HELD_OUT, SURE = 100, 1.96
FAINT = "#5a5d63"


class Found(NamedTuple):
    """The attributions `(features,)` of one method."""

    name: str
    colour: str
    values: Tensor
    stderr: Tensor | None = None


class Patients(NamedTuple):
    """Measurements `(patients, 10)`, whose mean is 0 and deviation 1, and the score of the disease a year later."""

    measured: Tensor
    score: Tensor


def patients() -> tuple[Patients, Patients]:
    """Those to train with and those held out, in units of the former."""
    data = load_diabetes(scaled=False)
    measured, score = (torch.tensor(each, dtype=torch.float32) for each in (data.data, data.target))
    order = torch.randperm(len(score))
    train, test = order[HELD_OUT:], order[:HELD_OUT]
    measured = (measured - measured[train].mean(0)) / measured[train].std(0)
    return Patients(measured[train], score[train]), Patients(measured[test], score[test])


def trained(data: Patients) -> Callable[[Tensor], Tensor]:
    """`(batch, 10) -> (batch,)` the expected score: a small network with much weight decay, trained in a second."""
    mean, deviation = data.score.mean(), data.score.std()
    network = nn.Sequential(nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1), nn.Flatten(0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=1.0)
    for _ in range(100):
        for batch in torch.randperm(len(data.score)).split(64):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(data.measured[batch]), (data.score[batch] - mean) / deviation).backward()
            optimizer.step()
    return lambda measured: network(measured) * deviation + mean


def attributions(model: Callable[[Tensor], Tensor], patient: Tensor) -> tuple[Tensor, list[Found]]:
    """The exact Shapley values, and what the four methods say; the baseline, 0, is the mean patient."""
    exact = ShapleyValues(model).attribute(patient)[0]
    gradients = IntegratedGradients(model).attribute(patient)[0].detach()
    ablated = FeatureAblation(model).attribute(patient)[0]
    asked, ordered = Ledger(), Ledger()
    kernel = KernelShap(model).attribute(patient, n_samples=100, seed=0, return_stderr=True, ledger=asked)
    orders = PermutationShapley(model).attribute(patient, n_samples=20, return_stderr=True, ledger=ordered)
    return exact, [
        Found("IntegratedGradients", LIGHT.negative, gradients),
        Found("FeatureAblation, 11 evaluations", "#b4b7bc", ablated),
        Found(f"KernelShap, {len(asked)} evaluations", LIGHT.positive, *(each[0] for each in kernel)),
        Found(f"PermutationShapley, {len(ordered)} evaluations", DARK.positive, *(each[0] for each in orders)),
    ]


def draw(title: str, exact: Tensor, methods: list[Found], out: Path) -> None:
    """Bars of all methods by feature, the strongest first; below, how far the sampled ones are off."""
    order = exact.abs().argsort(descending=True)
    plt.rcParams.update({"font.size": 9, "axes.edgecolor": FAINT, "text.color": LIGHT.ink, "xtick.color": LIGHT.ink})
    figure = plt.figure(figsize=(10, 6.4), dpi=140)
    figure.text(0.02, 0.945, title, size=13)
    upper = panel(figure.add_axes((0.075, 0.42, 0.91, 0.46)), "Attribution", "disease score")
    lower = panel(
        figure.add_axes((0.075, 0.135, 0.91, 0.195)), "Error of the sampled methods, enlarged", "estimate − exact"
    )
    draw_bars(upper, exact[order], [each._replace(values=each.values[order]) for each in methods])
    draw_errors(lower, exact, methods, order)
    upper.set_xticks(range(len(NAMES)), [""] * len(NAMES))
    lower.set_xticks(range(len(NAMES)), [NAMES[i] for i in order.tolist()])
    figure.text(
        0.075, 0.02, "Whiskers: 95 % intervals, 1.96 standard errors to each side. Baseline: the mean patient.",
        color=FAINT,
    )  # fmt: skip
    figure.savefig(out)


def panel(axes: Axes, title: str, unit: str) -> Axes:
    axes.set_title(title, loc="left", size=10, pad=8)
    axes.set_ylabel(unit, color=FAINT)
    axes.set_xlim(-0.55, len(NAMES) - 0.45)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def draw_bars(axes: Axes, exact: Tensor, methods: list[Found]) -> None:
    places = torch.arange(len(NAMES))
    for number, (name, colour, values, _) in enumerate(methods):
        axes.bar(places - 0.285 + 0.19 * number, values, width=0.17, color=colour, label=name)
    axes.hlines(exact, places - 0.4, places + 0.4, color=LIGHT.ink, linewidth=1.2)
    handles = axes.get_legend_handles_labels()[0]
    handles.append(Line2D([], [], color=LIGHT.ink, linewidth=1.2, label="exact Shapley values, 1,024 evaluations"))
    axes.legend(handles=handles, loc="upper right", framealpha=1, edgecolor="white", borderaxespad=0)


def draw_errors(axes: Axes, exact: Tensor, methods: list[Found], order: Tensor) -> None:
    sampled = [each for each in methods if each.stderr is not None]
    for number, (_, colour, values, stderr) in enumerate(sampled):
        places = torch.arange(len(NAMES)) + 0.095 + 0.19 * number
        whiskers = {"yerr": SURE * stderr[order], "capsize": 2.5, "elinewidth": 1.1}
        axes.errorbar(places, (values - exact)[order], **whiskers, fmt="o", markersize=4, color=colour)
    low, high = axes.get_ylim()
    axes.set_ylim(-max(-low, high), max(-low, high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tabular.png"), help="the picture")
    out = parser.parse_args().out
    torch.manual_seed(0)
    train, test = patients()
    model = trained(train)
    with torch.no_grad():
        scores, mean = model(test.measured), model(torch.zeros(1, 10)).item()
    explained = 1 - (scores - test.score).square().sum() / (test.score - test.score.mean()).square().sum()
    worst = int(scores.argmax())

    exact, methods = attributions(model, test.measured[[worst]])
    print(f"model: explains {explained:.0%} of the variance of {HELD_OUT} patients it has not seen")
    print(f"change of the output: {scores[worst] - mean:.2f}; Shapley values sum to {exact.sum():.2f}")
    for name, _, values, stderr in methods:
        off = (values - exact).abs()
        sure = "" if stderr is None else f"; in the 95 % interval: {int((off <= SURE * stderr).sum())} of {len(exact)}"
        print(f"{name}: sum {values.sum():.2f}, off by {off.max():.2f} at most{sure}")
    title = f"Why {scores[worst]:.0f}? The highest of {HELD_OUT} forecast scores; the mean patient would get {mean:.0f}"
    draw(title, exact, methods, out)
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
