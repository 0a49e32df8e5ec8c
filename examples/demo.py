"""Which sentence of a prompt carried a small model's answer? Generates an answer, explains it, and checks the claim."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import torch

import llm_attr

SENTENCES = (
    "Skagen is a small town in the far north of Denmark.",
    "Many painters went to live there for its light.",
    "The old lighthouse at Skagen was built in 1747 by Philip de Lange.",
    "Its walls are made of red brick.",
    "Dr. Smith, who owns the café next door, sells 3.5 tons of ice cream a year.",
    "Visitors can climb the stairs on weekends.",
)
QUESTION = "When was the lighthouse built?"
PAGE = Path("out/explanation.html")


def messages(without: str = "") -> list[dict[str, str]]:
    """The question over the document, with one sentence left out."""
    document = " ".join(sentence for sentence in SENTENCES if sentence != without)
    return [{"role": "user", "content": f"{document}\n\n{QUESTION}"}]


def log_probability(lm: llm_attr.LanguageModel, answer: tuple[int, ...], without: str = "") -> float:
    """The log-probability of the answer from one plain forward pass of the model, explained by nothing of ours."""
    prompt = lm.tokenizer.apply_chat_template(messages(without), add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        logits = lm.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(answer)), list(answer)].sum().item()


def main() -> None:
    lm = llm_attr.load_model("smollm2-135m")
    result = llm_attr.explain(lm, messages(), unit="sentence")

    result.show()
    PAGE.parent.mkdir(exist_ok=True)
    result.to_html(PAGE)
    print(f"page: {PAGE.resolve()}")

    ranked = [unit.text for unit in result.top(len(result.input_tokens))]
    print(f"top unit: {ranked[0]}")
    other = next(text for text in ranked[1:] if text in SENTENCES)
    whole, without, without_other = (
        log_probability(lm, result.output_ids or (), text) for text in ("", ranked[0], other)
    )
    print(
        f"check: without it the answer's log-probability falls from {whole:.2f} to {without:.2f}; "
        f"without another sentence to {without_other:.2f}"
    )


if __name__ == "__main__":
    main()
