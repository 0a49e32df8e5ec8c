"""Which documents carried a small model's answer? Two that say the same hide each other, unless they share the credit.

Run: python examples/retrieval.py --out retrieval.png   (needs the extras demo and plot)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult, Prompt
from llm_attr.viz.colour import LIGHT, mark

QUESTION, REGION = "Who is the head librarian?", "Signe Dahl"
DOCUMENTS = {
    "hours": "The library is open from ten to six. On Mondays it stays closed.",
    "history": "The library was founded in 1891 by the shipowner Mads Holm.",
    "staff": "The head librarian is Signe Dahl. She has worked here for twelve years.",
    "building": "The roof was renewed in 2009. Its windows face the sea.",
    "newsletter": "Our head librarian is Signe Dahl. On Saturday she reads to children.",
    "cards": "A card costs nothing for residents. Visitors pay forty kroner a month.",
}
FAINT = "#5a5d63"


def messages(*without: str) -> list[dict[str, str]]:
    """The question over all documents but these."""
    kept = {name: text for name, text in DOCUMENTS.items() if name not in without}
    return Prompt.from_documents(QUESTION, kept).content if kept else [{"role": "user", "content": QUESTION}]


def log_probability(lm: LanguageModel, part: LLMAttributionResult, answer: tuple[int, ...], *without: str) -> float:
    """That of a part of the answer, from one plain forward pass of the model, explained by nothing of ours."""
    asked = lm.tokenizer.apply_chat_template(messages(*without), add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        logits = lm.model(torch.tensor([[*asked, *answer]])).logits[0, len(asked) - 1 : -1]
    rows = logits.log_softmax(-1)[range(len(answer)), list(answer)]
    return rows[slice(*part.region)].sum().item()


def draw(title: str, ablated: LLMAttributionResult, shapley: LLMAttributionResult, out: Path) -> None:
    """Both results beside each other on one scale, a row for each document."""
    plt.rcParams.update({"font.size": 9, "text.color": LIGHT.ink, "xtick.color": FAINT})
    figure = plt.figure(figsize=(10, 4.4), dpi=140)
    figure.text(0.02, 0.905, title, size=13)
    bottom, height, rows = 0.17, 0.53, len(DOCUMENTS)
    left = figure.add_axes((0.51, bottom, 0.22, height), ylim=(rows - 0.5, -0.5))
    right = figure.add_axes((0.765, bottom, 0.22, height), sharex=left, sharey=left)
    draw_bars(left, "Feature ablation:\neach document left out alone", ablated)
    draw_bars(right, "Shapley values (KernelSHAP):\nleft out together with others", shapley)
    for place, (name, text) in enumerate(DOCUMENTS.items()):
        y = bottom + height * (1 - (place + 0.5) / rows)
        first = f"{text.split('. ')[0].rstrip('.')}."
        figure.text(0.02, y, name, weight="bold" if REGION in text else None, va="center")
        figure.text(0.118, y, first, size=8.5, color=LIGHT.ink if REGION in text else FAINT, va="center")
    note = "Loss of log-probability in nats; whiskers: 95 % intervals, 1.96 standard errors to each side."
    figure.text(0.02, 0.04, note, color=FAINT)
    figure.savefig(out)


def draw_bars(axes: Axes, title: str, result: LLMAttributionResult) -> None:
    values, places = result.seq_attr, range(len(DOCUMENTS))
    axes.barh(places, values, height=0.6, color=[mark(value) for value in values.tolist()])
    if result.stderr is not None:
        whiskers = {"xerr": 1.96 * result.stderr, "capsize": 2.5, "elinewidth": 1}
        axes.errorbar(values, places, **whiskers, fmt="none", ecolor=LIGHT.ink)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_title(title, loc="left", size=10, pad=8)
    axes.spines[:].set_visible(False)
    axes.set_xticks([0, 5, 10])
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelleft=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("retrieval.png"), help="the picture; a page is put beside it")
    out = parser.parse_args().out
    torch.manual_seed(0)
    lm, prompt = llm_attr.load_model("smollm2-135m"), Prompt.from_documents(QUESTION, DOCUMENTS)
    ablated = llm_attr.explain(lm, prompt, gen_args={"max_new_tokens": 8, "do_sample": False})
    answer, sampling = ablated.output_ids, {"n_samples": 32, "until": "top 2 stable", "seed": 0}
    found = llm_attr.explain(lm, prompt, method="kernel_shap", target=answer, **sampling)
    ablated, part = ablated.for_output(REGION), found.for_output(REGION)

    print(f"answer: {found.output_text}")
    part.show()
    print(f"Shapley values of {REGION!r} from {found.provenance['variants']} of {2 ** len(DOCUMENTS)} combinations")
    for name, value, error, alone in zip(DOCUMENTS, part.seq_attr, part.stderr, ablated.seq_attr, strict=True):
        print(f"{name:10} {value:+6.2f} ± {error:.2f}   left out alone {alone:+.2f}")
    for without in ((), ("staff",), ("newsletter",), ("staff", "newsletter"), tuple(DOCUMENTS)):
        names = " and ".join(without) if len(without) < len(DOCUMENTS) else "any document"
        print(f"log-probability without {names or 'nothing'}: {log_probability(lm, part, answer, *without):.2f}")
    print(f"Shapley values sum to {part.seq_attr.sum():.2f}")
    title = f"Which documents carried “{REGION}”? Two say the name, and each hides the other"
    draw(title, ablated, part, out)
    part.to_html(out.with_suffix(".html"))
    print(f"picture: {out.resolve()}\npage: {out.with_suffix('.html').resolve()}")


if __name__ == "__main__":
    main()
