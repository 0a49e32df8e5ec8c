"""What `cite` takes beyond the explanation that it reads, on SmolLM2: 12 sentences in 4 documents, 4 in the answer."""

from __future__ import annotations

from statistics import median
from time import process_time
from typing import Any

import pytest

import llm_attr
from llm_attr import Prompt
from llm_attr.llm.cite import SAMPLES

DOCUMENTS = {
    "harbour": "The ferry leaves at nine. The pier is old. Tickets cost four crowns.",
    "aksel": "Aksel repairs violins. His shop smells of glue. He learnt the craft in Odense.",
    "mill": "The mill was built in 1854. The miller has a limp. Corn is dear this year.",
    "market": "The market is on Tuesday. Ebba sells umbrellas. The fountain is dry.",
}
QUESTION = "What do we know about the town?"
ANSWER = "The ferry leaves at nine. Aksel repairs violins. The mill was built in 1854. The king lives in Rome."


@pytest.mark.benchmark
@pytest.mark.real
def test_cite_beside_the_plain_explanation() -> None:
    lm: Any = llm_attr.load_model("smollm2-135m")
    prompt = Prompt.from_documents(QUESTION, DOCUMENTS, unit="sentence")
    how: dict[str, Any] = {"method": "kernel_shap", "n_samples": SAMPLES, "seed": 0, "show_progress": False}
    llm_attr.explain(lm, prompt, target=ANSWER, method="feature_ablation", show_progress=False)
    times: dict[str, list[float]] = {"explain": [], "cite": []}
    for _ in range(3):
        start = process_time()
        llm_attr.explain(lm, prompt, target=ANSWER, **how)
        middle = process_time()
        cited = llm_attr.cite(lm, DOCUMENTS, QUESTION, answer=ANSWER, show_progress=False)
        times["explain"].append(middle - start)
        times["cite"].append(process_time() - middle)
    plain, whole = (median(times[name]) for name in ("explain", "cite"))
    held = [each.supported for each in cited.sentences]
    print(f"\nexplain {plain:.2f} s, cite {whole:.2f} s, ratio {whole / plain:.2f}; supported: {held}")
