"""Which words make a sentence sound pleased or displeased? Integrated gradients of MiniLM's word embeddings.

The head on MiniLM is a toy: a linear layer trained here, in a second, on the 32 sentences below.

Run: python examples/text_classifier.py --out text.png   (needs the extras demo and plot)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from models import sentence_encoder
from torch import Tensor, nn
from transformers import BatchEncoding

from llm_attr.attr import LayerIntegratedGradients
from llm_attr.viz.colour import LIGHT, colormap
from llm_attr.viz.scale import extent

PLEASED = (
    "The soup was delicious.", "A wonderful film from start to end.", "I love this little hotel.",
    "The guide was kind and funny.", "Great coffee and friendly people.", "We had a lovely evening.",
    "The room was clean and bright.", "An excellent book, I could not stop.", "The service was quick and warm.",
    "Beautiful music, beautifully played.", "It works perfectly.", "The best bread in town.",
    "I enjoyed every minute of it.", "A charming place with a fine garden.", "The children were delighted.",
    "Well made and worth its price.",
)  # fmt: skip
DISPLEASED = (
    "The soup was cold and salty.", "A boring film from start to end.", "I hate this noisy hotel.",
    "The guide was rude and late.", "Terrible coffee and grumpy people.", "We had an awful evening.",
    "The room was dirty and dark.", "A dull book, I gave up soon.", "The service was slow and careless.",
    "Ugly music, badly played.", "It broke on the first day.", "The worst bread in town.",
    "I regret every minute of it.", "A sad place with a neglected garden.", "The children were disappointed.",
    "Badly made and far too expensive.",
)  # fmt: skip
EXPLAINED = (
    "The actors were brilliant and I laughed all the way home.",
    "We waited an hour and the food was cold and tasteless.",
    "A tiny, noisy room, but the breakfast was wonderful.",
)


class Classifier(nn.Module):
    """`(batch, tokens)` ids and mask -> `(batch,)` log-odds of "pleased"."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.config.hidden_size, 1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.sentence(ids, mask)).squeeze(1)

    def sentence(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The mean of the last hidden states, which is how MiniLM was trained to stand for a sentence."""
        hidden = self.encoder(ids, attention_mask=mask).last_hidden_state
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def train(model: Classifier, ids: Tensor, mask: Tensor, labels: Tensor) -> None:
    """Fits the head alone: logistic regression with a small penalty."""
    with torch.no_grad():
        sentences = model.sentence(ids, mask)
    optimizer = torch.optim.Adam(model.head.parameters(), lr=0.05, weight_decay=1e-3)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model.head(sentences).squeeze(1), labels).backward()
        optimizer.step()


def words(sentence: str, encoding: BatchEncoding, row: int, values: list[float]) -> list[tuple[str, float]]:
    """The attributions of the pieces of each word added up; [CLS] and [SEP], which stay in the baseline, left out."""
    totals: dict[int, float] = {}
    for word, value in zip(encoding.word_ids(row), values, strict=True):
        if word is not None:
            totals[word] = totals.get(word, 0.0) + value
    return [(sentence[slice(*encoding.word_to_chars(row, word))], total) for word, total in totals.items()]


def draw(rows: list[tuple[str, list[tuple[str, float]]]], out: Path) -> None:
    """A strip of words for each sentence, all on one signed scale, with the numbers under the words."""
    limit = extent([value for _, strip in rows for _, value in strip])
    colours = ScalarMappable(Normalize(-limit, limit), colormap())
    width, height = 7.9, 1.1 * len(rows) + 1.5
    plt.rcParams.update({"font.size": 10, "text.color": LIGHT.ink, "xtick.color": LIGHT.ink})
    figure = plt.figure(figsize=(width, height), dpi=160)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    axes.text(0.25, height - 0.5, "Which words sound pleased? A toy head on MiniLM", size=13)
    for number, (verdict, strip) in enumerate(rows):
        y = height - 1 - 1.1 * number
        axes.text(0.25, y, verdict)
        draw_strip(axes, strip, y - 0.38, colours)
    scale = figure.colorbar(colours, cax=figure.add_axes((0.55, 0.105, 0.36, 0.026)), orientation="horizontal")
    scale.outline.set_linewidth(0.4)
    scale.set_ticks([-limit, 0, limit], labels=["displeased", "0", "pleased"])
    scale.ax.tick_params(length=0)
    figure.savefig(out)


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0"


def draw_strip(axes: Axes, strip: list[tuple[str, float]], y: float, colours: ScalarMappable) -> None:
    x = 0.32
    for word, value in strip:
        box = {"boxstyle": "round,pad=0.3,rounding_size=0.15", "fc": colours.to_rgba(value), "ec": "none"}
        label = axes.text(x, y, word, size=12, bbox=box)
        right = axes.transData.inverted().transform(label.get_window_extent())[1, 0]
        axes.text((x + right) / 2, y - 0.27, signed(value), size=7.5, ha="center", color="#5a5d63")
        x = right + 0.22


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("text.png"), help="the picture")
    out = parser.parse_args().out
    torch.manual_seed(0)
    encoder, tokenizer = sentence_encoder()
    model = Classifier(encoder).eval()

    examples = tokenizer([*PLEASED, *DISPLEASED], padding=True, return_tensors="pt")
    labels = torch.tensor([1.0] * len(PLEASED) + [0.0] * len(DISPLEASED))
    train(model, examples["input_ids"], examples["attention_mask"], labels)

    encoding = tokenizer(list(EXPLAINED), padding=True, return_tensors="pt")
    ids, mask = encoding["input_ids"], encoding["attention_mask"]
    kept = (ids == tokenizer.cls_token_id) | (ids == tokenizer.sep_token_id)
    baseline = torch.where(kept, ids, tokenizer.pad_token_id)
    method = LayerIntegratedGradients(model, encoder.embeddings.word_embeddings)
    found, delta = method.attribute(ids, baseline, additional_forward_args=mask, return_convergence_delta=True)
    with torch.no_grad():
        scores, padding = model(ids, mask), model(baseline, mask)

    rows = []
    for i, score in enumerate(scores.tolist()):
        verdict = "pleased" if score > 0 else "displeased"
        sure = 100 * torch.tensor(abs(score)).sigmoid().item()
        strip = words(EXPLAINED[i], encoding, i, found[i].sum(1).tolist())
        title = f"{verdict}, {sure:.0f} %: log-odds {signed(score)}, of padding alone {signed(padding[i].item())}"
        rows.append((title, strip))
        print(f"{verdict:10} log-odds {score:+.2f}  delta {delta[i].item():+.4f}  {EXPLAINED[i]}")
        print("  " + "  ".join(f"{word} {value:+.2f}" for word, value in strip))
    print(f"delta: {(delta / scores).abs().max():.3%} of the score at most")
    draw(rows, out)
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
