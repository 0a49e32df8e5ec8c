"""Which measurements does a network need to foresee a diabetes patient's state? Gates learn it with the network.

Run: python examples/gates.py --out gates.png   (needs the extras plot and surrogates)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

from llm_attr.module import GaussianStochasticGates
from llm_attr.robust import FGSM, PGD, AttackComparator
from llm_attr.viz.ladder import plot_attack_ladder, plot_gates

NAMES = ("age", "sex", "BMI", "blood pressure", "total cholesterol", "LDL", "HDL", "cholesterol / HDL",
         "triglycerides (log)", "glucose")  # fmt: skip
HELD_OUT, EPOCHS, WEIGHT = 100, 150, 0.03


def patients() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Measurements and scores to train with and held out, in units of the former."""
    data = load_diabetes(scaled=False)
    measured, score = (torch.tensor(each, dtype=torch.float32) for each in (data.data, data.target))
    order = torch.randperm(len(score))
    train, test = order[HELD_OUT:], order[:HELD_OUT]
    measured = (measured - measured[train].mean(0)) / measured[train].std(0)
    score = (score - score[train].mean()) / score[train].std()
    return measured[train], score[train], measured[test], score[test]


def trained(measured: Tensor, score: Tensor) -> tuple[nn.Module, GaussianStochasticGates, Tensor]:
    """The network, its gates, and how probable it was that each was open after every epoch."""
    gates = GaussianStochasticGates(len(NAMES), reg_weight=WEIGHT)
    network = nn.Sequential(nn.Linear(len(NAMES), 32), nn.SiLU(), nn.Linear(32, 1), nn.Flatten(0))
    learner = torch.optim.AdamW(
        [{"params": gates.parameters(), "lr": 0.02, "weight_decay": 0.0}, {"params": network.parameters(), "lr": 0.003}]
    )
    seen = [gates.get_gate_active_probs()]
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(score)).split(64):
            gated, penalty = gates(measured[batch])
            loss = nn.functional.mse_loss(network(gated), score[batch]) + penalty
            learner.zero_grad()
            loss.backward()
            learner.step()
        seen.append(gates.get_gate_active_probs())
    return network.eval(), gates.eval(), torch.stack(seen)


def explained(predicted: Tensor, score: Tensor) -> float:
    """The share of the variance that a prediction explains."""
    return 1 - float((predicted - score).square().sum() / (score - score.mean()).square().sum())


def ladder(network: nn.Module, gates: nn.Module, measured: Tensor, score: Tensor) -> tuple[list[float], dict, float]:
    """The mean error under attacks of growing strength, in standard deviations of the measurements."""

    def model(x: Tensor) -> Tensor:
        return network(gates(x)[0])

    def squared(predicted: Tensor, target: Tensor) -> Tensor:
        return (predicted - target).square()

    comparator = AttackComparator(model, lambda predicted, target: (predicted - target).abs())
    strengths = [0.05, 0.1, 0.2, 0.3, 0.4]
    for strength in strengths:
        steps = {"radius": strength, "step_size": strength / 4, "step_num": 10, "random_start": True}
        ask: dict = {"additional_attack_arg_names": ["target"]}
        comparator.add_attack(FGSM(model, squared), f"FGSM {strength}", attack_kwargs={"epsilon": strength}, **ask)
        comparator.add_attack(PGD(model, squared), f"PGD {strength}", num_attempts=5, attack_kwargs=steps, **ask)
        noise = {"strength": strength}
        comparator.add_attack(
            lambda x, strength: x + strength * torch.randn_like(x).sign(), f"noise {strength}", 5, attack_kwargs=noise
        )
    found = comparator.evaluate(measured, target=score)
    lines = {
        name: [found[f"{name} {strength}"]["mean"].mean().item() for strength in strengths]
        for name in ("PGD", "FGSM", "noise")
    }
    return strengths, lines, found["Original"].mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gates.png"), help="the picture")
    out = parser.parse_args().out
    torch.manual_seed(0)
    measured, score, test, test_score = patients()
    network, gates, seen = trained(measured, score)
    opened = seen[-1] > 0.5
    with torch.no_grad():
        share = explained(network(gates(test)[0]), test_score)
    print(f"kept: {', '.join(name for name, kept in zip(NAMES, opened.tolist(), strict=True) if kept)}")
    print(f"explains {share:.0%} of the variance of {HELD_OUT} patients it has not seen, by {int(opened.sum())} of 10")
    strengths, lines, original = ladder(network, gates, test, test_score)
    print(f"mean error {original:.2f}; under PGD within {strengths[-1]} it is {lines['PGD'][-1]:.2f}")

    figure = Figure(figsize=(14, 5), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_gates(seen, NAMES, step_name="epoch", title="Gates of ten measurements", ax=left)
    plot_attack_ladder(
        strengths, lines, original=original, strength_name="largest change of a measurement (standard deviations)",
        metric_name="mean error (standard deviations of the score)", title="Error under attack", ax=right,
    )  # fmt: skip
    figure.savefig(out)
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
