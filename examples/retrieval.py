"""Which documents carried a small model's answer? Two that say the same hide each other, unless they share the credit.

Run: python examples/retrieval.py --out retrieval.png   (needs the extras demo and plot)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import torch

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult, Prompt
from llm_attr.viz.tabular import plot_bars

QUESTION, REGION = "Who is the head librarian?", "Signe Dahl"
DOCUMENTS = {
    "hours": "The library is open from ten to six. On Mondays it stays closed.",
    "history": "The library was founded in 1891 by the shipowner Mads Holm.",
    "staff": "The head librarian is Signe Dahl. She has worked here for twelve years.",
    "building": "The roof was renewed in 2009. Its windows face the sea.",
    "newsletter": "Our head librarian is Signe Dahl. On Saturday she reads to children.",
    "cards": "A card costs nothing for residents. Visitors pay forty kroner a month.",
}


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
    """Both results beside each other, a row for each document with its first sentence."""
    names = [f"{name}\n{text.split('. ')[0].rstrip('.')}." for name, text in DOCUMENTS.items()]
    errors = torch.stack([torch.full_like(shapley.stderr, torch.nan), 1.96 * shapley.stderr])
    figure, _ = plot_bars(
        names, torch.stack([ablated.seq_attr, shapley.seq_attr]), errors, order="given", title=title,
        series=["Feature ablation: left out alone", "Shapley values (KernelSHAP): left out together with others"],
        value_name="loss of log-probability (nats)", error_name="95 % intervals, 1.96 standard errors to each side",
    )  # fmt: skip
    figure.savefig(out, dpi=140)


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
