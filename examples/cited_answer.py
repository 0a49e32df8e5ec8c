"""Which passages carried each sentence of a small model's answer, and which sentences have none?

Run: python examples/cited_answer.py --out cited.html
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import llm_attr
from llm_attr import Citations, LanguageModel

QUESTION = "What time does the ferry leave, what does a ticket cost, and when is the market?"
DOCUMENTS = {
    "harbour.md": "The ferry to Anholt leaves at nine in the morning. A ticket costs forty kroner. "
    "The pier was built in 1902.",
    "workshop.md": "Aksel repairs violins in a cellar by the harbour. He learnt the craft in Cremona.",
    "market.md": "The market is held on Tuesdays. It sells fish and umbrellas.",
}


def cited_answer(lm: LanguageModel) -> Citations:
    """The model's own answer with its sources."""
    return llm_attr.cite(lm, DOCUMENTS, QUESTION, gen_args={"max_new_tokens": 60, "do_sample": False})


def main() -> None:
    """Prints the answer with its sources, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("cited.html"), help="the page")
    out = parser.parse_args().out
    cited = cited_answer(llm_attr.load_model("smollm2-135m"))
    cited.show()
    for sentence in cited.sentences:
        sources = ", ".join(f"{each.id} {each.start}-{each.end} {each.nats:+.1f}" for each in sentence.sources)
        print(f"{sentence.start}-{sentence.end}: {sources or 'no source: ' + sentence.reason}")
    cited.to_html(out)
    print(f"page: {out.resolve()}")


if __name__ == "__main__":
    main()
