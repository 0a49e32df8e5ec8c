import threading

import pytest

from llm_attr import watching
from llm_attr.errors import Cancelled
from llm_attr.insights.engine import Controls
from llm_attr.insights.model_engine import ModelEngine
from llm_attr.insights.schemas import Explain, Generate, Input
from llm_attr.llm.explain import explain
from llm_attr.llm.target.generation import generate
from tests.zoo import tiny

TEXT = "Aksel repairs violins. He has a dog. He lives in Odense. The sea is near."


@pytest.fixture(scope="module")
def lm():
    return tiny("llama")


def controls(**given):
    return Controls(**{"progress": lambda done, total: None, "token": lambda text: None, **given})


def test_tokens_are_told_as_they_are_generated(lm):
    ids, seen = lm.encode(TEXT, special_tokens=True), []
    with watching(tokens=seen.append):
        answer = generate(lm, ids)
    assert seen[: len(answer)] == answer == generate(lm, ids)


def test_enough_keeps_the_answer_so_far_and_cancel_does_not(lm):
    ids, stop = lm.encode(TEXT, special_tokens=True), threading.Event()
    whole, seen = generate(lm, ids), []

    def see(token):
        seen.append(token)
        if len(seen) == 2:
            stop.set()

    with watching(tokens=see, enough=stop):
        assert generate(lm, ids) == whole[:2]
    with watching(cancel=stop), pytest.raises(Cancelled):
        generate(lm, ids)


def test_enough_keeps_the_estimate_of_a_sample(lm):
    stop = threading.Event()
    stop.set()
    asked = {"target": " dog", "unit": "word", "method": "kernel_shap", "budget": "1000 s", "seed": 0}
    with watching(enough=stop), pytest.warns(UserWarning, match="fewer than two"):
        few = explain(lm, TEXT, **asked)
    assert few.seq_attr.isfinite().all()
    assert few.provenance["variants"] < 200


def test_the_engine_answers_as_the_library_does(lm):
    engine, asked = ModelEngine(lm), Explain(prompt=TEXT, target=" dog")
    assert engine.units(Input(prompt=TEXT))["units"] == [
        "Aksel repairs violins.", "He has a dog.", "He lives in Odense.", "The sea is near.",
    ]  # fmt: skip
    assert engine.plan(asked)["evaluations"] == 5
    done = []
    found = engine.explain(asked, controls(progress=lambda *part: done.append(part)))
    expected = explain(lm, TEXT, target=" dog").to_dict()
    for name in ("input_tokens", "output_tokens", "seq_attr", "token_attr", "output_text"):
        assert found.document[name] == expected[name]
    assert done[-1][0] == done[-1][1]
    texts = []
    answer = engine.generate(Generate(prompt=TEXT, max_new_tokens=8), controls(token=texts.append))
    assert answer["text"].startswith("".join(texts))
    assert engine.about()["methods"]["feature_ablation"]


def test_documents_and_their_names_reach_the_units(lm):
    asked = Input(prompt="Who?", documents={"a.txt": "Aksel repairs.", "b.txt": "He sings."}, unit="document")
    assert len(ModelEngine(lm).units(asked)["units"]) == 2
