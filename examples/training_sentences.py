"""Which training sentences made a sentiment classifier say so? A small head on MiniLM, with proponents and opponents.

The head, a linear layer, is trained here in a second on the 40 sentences below, two of which have the wrong label on
purpose. `TracInCPFast` sums over three checkpoints how much each of them moved the loss of a new sentence. A second
head, trained with all labels right, shows whether those that it blames are to blame.

Run: python examples/training_sentences.py --out sentences.txt   (needs the extra demo)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import torch
from models import sentence_encoder
from text_classifier import Classifier
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from transformers import BatchEncoding

from llm_attr.influence import KMostInfluentialResults, TracInCPFast

PLEASED = (
    "The soup was rich and full of flavour.", "Our waiter was attentive and funny.",
    "Best pancakes I have had in years.",
    "The pasta was fresh and cooked just right.", "The bed was soft and the room very quiet.",
    "A charming hotel with a lovely view of the lake.", "Check-in took a minute and everybody was kind.",
    "The pool was warm and clean.", "The battery lasts for two full days.", "The screen is bright and sharp.",
    "It was easy to set up and works perfectly.", "This laptop is light, fast and silent.",
    "A moving film with superb actors.", "I laughed from the first scene to the last.",
    "The ending surprised and delighted me.", "A gripping book, I could not put it down.",
    "The parcel came a day early and well packed.", "They replaced the broken part at once.",
    "The support team answered within minutes.", "Excellent value for so little money.",
)  # fmt: skip
DISPLEASED = (
    "The soup was watery and had no taste.", "Our waiter was rude and forgot the drinks.",
    "The worst pancakes I have ever had.",
    "The pasta was overcooked and cold.", "The bed was hard and the street very loud.",
    "A shabby hotel with a view of a car park.", "Check-in took an hour and nobody apologised.",
    "The pool was freezing and dirty.", "The battery dies before noon.", "The screen is dim and full of scratches.",
    "It was a pain to set up and crashes daily.", "This laptop is heavy, slow and noisy.",
    "A dull film with wooden actors.", "I yawned from the first scene to the last.",
    "The ending was silly and disappointed me.", "A tedious book, I gave up halfway.",
    "The parcel came a week late and damaged.", "They refused to replace the broken part.",
    "The support team never answered.", "Far too expensive for such poor quality.",
)  # fmt: skip
WRONG = ("Best pancakes I have had in years.", "The battery dies before noon.")
"""Their labels are turned round before training."""

ASKED = (
    ("The waiter smiled and brought us free dessert.", 1), ("My pancakes were fluffy and delicious.", 1),
    ("The phone's battery is empty after three hours.", 0), ("The hotel room was noisy and smelled of smoke.", 0),
    ("The actors were brilliant and I cried at the end.", 1), ("My order arrived broken and nobody replied.", 0),
)  # fmt: skip
RATE, STEPS, SHOWN = 0.5, 300, 3


def train(model: Classifier, ids: Tensor, mask: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    """Fits the head alone by gradient descent; its states after each third of the steps."""
    with torch.no_grad():
        sentences = model.sentence(ids, mask)
    states, optimizer = [], torch.optim.SGD(model.head.parameters(), RATE)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model.head(sentences).squeeze(1), labels).backward()
        optimizer.step()
        if step % (STEPS // 3) == 0:
            states.append({name: value.clone() for name, value in model.head.state_dict().items()})
    return states


def load(model: Classifier, state: dict[str, Tensor]) -> float:
    """A checkpoint is a state of the head; its weight is the learning rate."""
    model.head.load_state_dict(state)
    return RATE


def pleased(model: Classifier, asked: BatchEncoding) -> list[float]:
    """The probability of "pleased" for each sentence."""
    with torch.no_grad():
        return model(asked["input_ids"], asked["attention_mask"]).sigmoid().tolist()


def word(label: float) -> str:
    return "pleased" if label > 0.5 else "displeased"


def ranked(name: str, found: KMostInfluentialResults, row: int, texts: list[str], labels: Tensor) -> list[str]:
    """Some training sentences with their scores and labels, a line for each."""
    lines = [f"  {name}"]
    for number, score in zip(found.indices[row].tolist(), found.influence_scores[row].tolist(), strict=True):
        mark = "   <- wrong label" if texts[number] in WRONG else ""
        lines.append(f"    {score:+.3f}  {word(labels[number]):10}  {texts[number]}{mark}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("sentences.txt"), help="the text")
    out = parser.parse_args().out
    torch.manual_seed(0)
    encoder, tokenizer = sentence_encoder()
    model, texts = Classifier(encoder).eval(), [*PLEASED, *DISPLEASED]
    labels = torch.tensor([float((text in PLEASED) != (text in WRONG)) for text in texts])
    known = tokenizer(texts, padding=True, return_tensors="pt")
    asked = tokenizer([text for text, _ in ASKED], padding=True, return_tensors="pt")
    states = train(model, known["input_ids"], known["attention_mask"], labels)
    odds = pleased(model, asked)

    data = TensorDataset(known["input_ids"], known["attention_mask"], labels)
    loss = nn.BCEWithLogitsLoss(reduction="sum")
    tracin = TracInCPFast(model, model.head, data, states, load, loss, batch_size=len(texts))
    truth = torch.tensor([float(label) for _, label in ASKED])
    tests = (asked["input_ids"], asked["attention_mask"], truth)
    sides = [
        (name, tracin.influence(tests, k=SHOWN, proponents=name == "proponents"))
        for name in ("proponents", "opponents")
    ]

    right = torch.tensor([float(text in PLEASED) for text in texts])
    train(model, known["input_ids"], known["attention_mask"], right)
    mended = pleased(model, asked)

    report = "\n".join(
        line
        for row, (text, label) in enumerate(ASKED)
        for line in (
            f"{text}\n  is {word(label)}; pleased with {odds[row]:.0%}, with all labels right {mended[row]:.0%}",
            *(line for name, found in sides for line in ranked(name, found, row, texts, labels)),
        )
    )
    print(report)
    out.write_text(report + "\n", encoding="utf-8")
    print(f"written: {out.resolve()}")


if __name__ == "__main__":
    main()
