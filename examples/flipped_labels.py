"""Which training examples have a wrong label? Handwritten digits, 5 % of whose labels were flipped on purpose.

A network is trained on them, and the influence of each example on itself (TracIn at the checkpoints of the run) ranks
them: an example whose label contradicts its neighbours is learned from itself alone.

Run: python examples/flipped_labels.py --out flipped_labels.png
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from llm_attr.influence import TracInCP

RATE = 0.1


def flipped(labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The labels with a share of them replaced by another digit, and which."""
    chosen = torch.randperm(len(labels))[: round(share * len(labels))]
    given = labels.clone()
    given[chosen] = (given[chosen] + torch.randint(1, 10, chosen.shape)) % 10
    return given, chosen


def trained(images: Tensor, labels: Tensor) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """A network, and its states along the way."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    states = []
    for epoch in range(1, 13):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        if epoch % 4 == 0:
            states.append({name: value.clone() for name, value in model.state_dict().items()})
    return model.eval(), states


def load(model: nn.Module, state: dict[str, Tensor]) -> float:
    """A checkpoint is a state in memory; its weight is the learning rate."""
    model.load_state_dict(state)
    return RATE


def draw(images: Tensor, given: Tensor, true: Tensor, order: Tensor, found: Tensor, path: Path) -> None:
    """The first forty examples of the ranking, and how many flipped labels are found along it."""
    figure = plt.figure(figsize=(11, 7.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(2.2, 1))
    top.suptitle("Largest influence on themselves: the label in the data (the true one where it was flipped)")
    for axes, number in zip(top.subplots(4, 10).flat, order.tolist(), strict=False):
        axes.imshow(images[number].view(8, 8), cmap="gray_r")
        wrong = bool(given[number] != true[number])
        axes.set_title(f"{given[number]}" + (f" ({true[number]})" if wrong else ""), color="C3" if wrong else "black")
        axes.set_xticks([])
        axes.set_yticks([])
    axes = bottom.subplots()
    share = torch.linspace(0, 1, len(found))
    axes.plot(share, found / found[-1], label="by influence on itself")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="in any order")
    axes.axvline(0.1, color="0.8", linewidth=1)
    axes.set(xlabel="share of the examples looked at", ylabel="flipped labels found", ylim=(0, 1.05), xlim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Trains, ranks, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("flipped_labels.png"), help="the picture")
    out = parser.parse_args().out
    torch.manual_seed(0)
    data = load_digits()
    images, true = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    given, chosen = flipped(true, 0.05)
    model, states = trained(images, given)
    loss = nn.CrossEntropyLoss(reduction="none")
    tracin = TracInCP(model, TensorDataset(images, given), states, load, loss_fn=loss, batch_size=256)
    order = tracin.self_influence().argsort(descending=True)
    found = torch.isin(order, chosen).cumsum(0)
    tenth = len(order) // 10
    print(f"{len(order)} digits, {len(chosen)} of them with a flipped label; three checkpoints")
    print(f"in the top tenth by influence on themselves: {int(found[tenth - 1])} of {len(chosen)} flipped labels")
    draw(images, given, true, order, found.float(), out)
    print(f"written: {out}")


if __name__ == "__main__":
    main()
