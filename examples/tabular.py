"""Which measurements make a network expect a diabetes patient to get worse? Five methods, with their error.

Run: python examples/tabular.py --out tabular.png   (needs the extras plot and surrogates)
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

from llm_attr.attr import FeatureAblation, IntegratedGradients, KernelShap, Ledger, PermutationShapley, ShapleyValues
from llm_attr.viz.tabular import plot_bars, plot_waterfall

NAMES = ("age", "sex", "BMI", "blood pressure", "total cholesterol", "LDL", "HDL", "cholesterol / HDL",
         "triglycerides (log)", "glucose")  # fmt: skip
HELD_OUT, SURE = 100, 1.96


class Found(NamedTuple):
    """The attributions `(features,)` of one method."""

    name: str
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
        Found("IntegratedGradients", gradients),
        Found("FeatureAblation, 11 evaluations", ablated),
        Found(f"KernelShap, {len(asked)} evaluations", *(each[0] for each in kernel)),
        Found(f"PermutationShapley, {len(ordered)} evaluations", *(each[0] for each in orders)),
    ]


def draw(title: str, mean: float, exact: Tensor, methods: list[Found], out: Path) -> None:
    """From the mean patient to this one by exact values; beside it how far the methods are off, with their errors."""
    figure = Figure(figsize=(13, 6), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", size=13)
    left, right = figure.subplots(1, 2)
    plot_waterfall(
        NAMES, exact, mean, base_name="mean patient", output_name="this patient", value_name="disease score",
        title="Exact Shapley values, 1,024 evaluations", ax=left,
    )  # fmt: skip
    order = exact.abs().argsort(descending=True)
    off = torch.stack([each.values - exact for each in methods])[:, order]
    unknown = torch.full_like(exact, torch.nan)
    errors = torch.stack([unknown if each.stderr is None else SURE * each.stderr for each in methods])[:, order]
    plot_bars(
        [NAMES[i] for i in order.tolist()], off, errors, series=[each.name for each in methods], order="given",
        upright=False, value_name="difference from the exact value", error_name="95 % intervals, 1.96 standard errors",
        title="How far four methods are off", ax=right,
    )  # fmt: skip
    figure.savefig(out)


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
    for name, values, stderr in methods:
        off = (values - exact).abs()
        sure = "" if stderr is None else f"; in the 95 % interval: {int((off <= SURE * stderr).sum())} of {len(exact)}"
        print(f"{name}: sum {values.sum():.2f}, off by {off.max():.2f} at most{sure}")
    title = f"Why {scores[worst]:.0f}? The highest of {HELD_OUT} forecast scores; the mean patient would get {mean:.0f}"
    draw(title, mean, exact, methods, out)
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
