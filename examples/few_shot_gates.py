"""Which sentences of a few-shot prompt do fifty questions need? Gates on the embeddings of the sentences learn it.

Run: python examples/few_shot_gates.py --out few_shot_gates.png   (needs the extras demo and plot; about five minutes)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import torch
from torch import Tensor

import llm_attr
from llm_attr.module import GaussianStochasticGates
from llm_attr.viz.ladder import plot_gates

SENTENCES = (
    "Captain: Olsen.", "Password: falcon.", "Trains leave at noon.", "Instrument: cello.", "City: Lisbon.",
    "Bread is sold here.", "Soup: pumpkin.", "Day: Tuesday.", "It rains on the hills.", "Cat: Luna.", "Metal: copper.",
)  # fmt: skip
ASKED = {"Password": "falcon", "Instrument": "cello", "Soup": "pumpkin", "Cat": "Luna", "Metal": "copper"}
LEADS = (
    "Again, please.", "Now tell me.", "Once more.", "And now you.", "Please go on.", "Say it again.", "What was it?",
    "Repeat it.", "One more time.", "Let us see.",
)  # fmt: skip
STEPS, WEIGHT, RATE, OF_EACH = 60, 0.3, 0.1, 2


class Asked:
    """The model's answers to the questions, after the embeddings of sentences."""

    def __init__(self, lm: Any) -> None:
        self.net, encode = lm.model, lm.tokenizer.encode
        self.table = self.net.get_input_embeddings().weight.detach()
        self.units = [encode((" " if number else "") + text) for number, text in enumerate(SENTENCES)]
        self.absent = self.table[encode("\n")[0]]  # what a closed gate leaves of each token
        self.prompts = [
            (encode(f" {lead} {name}:"), encode(f" {value}")[0]) for name, value in ASKED.items() for lead in LEADS
        ]

    def answers(self, context: Tensor, chosen: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
        """`(prompts,)`: the log-probability of each answer in nats, and whether it is the most probable token."""
        width = max(len(ids) for ids, _ in chosen)
        rows = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in chosen])
        last = torch.tensor([context.shape[1] + len(ids) - 1 for ids, _ in chosen])
        answer, each = torch.tensor([token for _, token in chosen]), torch.arange(len(chosen))
        read = self.net.model(inputs_embeds=torch.cat([context, self.table[rows]], 1), use_cache=False)
        log_probs = self.net.lm_head(read.last_hidden_state[each, last]).log_softmax(-1)
        return log_probs[each, answer], log_probs.argmax(-1) == answer

    @torch.no_grad()
    def after(self, kept: set[int]) -> tuple[float, float]:
        """The mean log-probability and the share of right answers after these sentences alone, without gates."""
        ids = [token for number, unit in enumerate(self.units) if number in kept for token in unit]
        context = self.table[torch.tensor(ids, dtype=torch.long)]
        size = len(LEADS)
        parts = [self.prompts[start : start + size] for start in range(0, len(self.prompts), size)]
        found = [self.answers(context.expand(len(part), -1, -1), part) for part in parts]
        log_probs, right = (torch.cat(each) for each in zip(*found, strict=True))
        return log_probs.mean().item(), right.float().mean().item()


def learnt(asked: Asked) -> Tensor:
    """`(steps, sentences)`: how probable it is that each gate is open, before and after every step."""
    gate_of = torch.tensor([number for number, unit in enumerate(asked.units) for _ in unit])
    gates = GaussianStochasticGates(len(SENTENCES), mask=gate_of[:, None], reg_weight=WEIGHT)
    learner = torch.optim.Adam(gates.parameters(), lr=RATE)
    difference = asked.table[[token for unit in asked.units for token in unit]] - asked.absent
    seen, size = [gates.get_gate_active_probs()], len(LEADS)
    for _ in range(STEPS):
        chosen = [
            asked.prompts[start + int(number)]
            for start in range(0, len(asked.prompts), size)
            for number in torch.randperm(size)[:OF_EACH]
        ]
        gated, penalty = gates(difference.expand(len(chosen), -1, -1))  # gates of its own for each prompt
        log_probs, _ = asked.answers(gated + asked.absent, chosen)
        loss = penalty - log_probs.mean()
        learner.zero_grad()
        loss.backward()
        learner.step()
        seen.append(gates.get_gate_active_probs())
    return torch.stack(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("few_shot_gates.png"), help="the picture")
    out: Path = parser.parse_args().out
    lm = llm_attr.load_model("smollm2-135m")
    lm.model.requires_grad_(False)
    asked, every = Asked(lm), set(range(len(SENTENCES)))
    full, _ = asked.after(every)
    costs = [full - asked.after(every - {number})[0] for number in sorted(every)]
    torch.manual_seed(0)
    seen = learnt(asked)
    kept = {number for number in every if seen[-1, number] > 0.5}
    print("gate  leave-one-out (nats)")
    for number, text in enumerate(SENTENCES):
        needed = "asked for" if text.partition(":")[0] in ASKED else ""
        print(f"{seen[-1, number]:4.2f}  {costs[number]:+5.2f}  {text:24}{needed}".rstrip())
    for name, some in (("all", every), ("kept", kept), ("closed", every - kept), ("no", set())):
        log_prob, right = asked.after(some)
        print(f"{name} sentences ({len(some)}): {right:.0%} right, mean log-probability {log_prob:.2f} nats")
    figure, _ = plot_gates(seen, SENTENCES, title="Which sentences do fifty questions need?", size=(9, 5))
    figure.savefig(out, dpi=110, bbox_inches="tight")
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
