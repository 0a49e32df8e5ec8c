"""Explanations with a model behind a server: the same numbers as in this process, and what servers do wrong."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_attr
from llm_attr import LanguageModel, Prompt, connect, explain, plan
from llm_attr.core.evaluator import watching
from llm_attr.errors import (
    Cancelled,
    ContextTooLong,
    EngineFailed,
    EngineRefused,
    InvalidValue,
    UnknownKeyword,
    UnknownName,
    UnsupportedMethod,
)
from llm_attr.llm.engines.completions import VLLM, OpenAI
from llm_attr.llm.engines.sglang import SGLang
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.prefix_tree import Query
from tests.llm.engines.servers import Served, serving

TEXT = "Dave lives in Palm Coast. He is a lawyer.\nWhat does he like?"
TARGET = " He likes fishing."
DIALECTS = ("sglang", "vllm", "openai")
CLOSE = 1e-3
QUICK: dict[str, Any] = {"backoff": 0.001}


def agree(one: Any, other: Any) -> None:
    torch.testing.assert_close(one.seq_attr, other.seq_attr, atol=CLOSE, rtol=0)
    if other.token_attr is not None:
        torch.testing.assert_close(one.token_attr, other.token_attr, atol=CLOSE, rtol=0)


METHODS: dict[str, dict[str, Any]] = {
    "feature_ablation": {},
    "kernel_shap": {"n_samples": 48, "seed": 0},
    "shapley_value_sampling": {"n_samples": 2, "seed": 0},
    "lime": {"n_samples": 48, "seed": 0},
    "banzhaf": {"n_samples": 48, "seed": 0},
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_attributions_are_those_of_the_model_itself(lm: LanguageModel, server: Served, dialect: str) -> None:
    served = connect(server.address(dialect), lm.tokenizer)
    assert served.calibration is not None
    assert served.calibration.difference < CLOSE
    for method, options in METHODS.items():
        for unit in ("token", "word", "sentence"):
            asked = {"unit": unit, "method": method, "target": TARGET, **options}
            agree(explain(served, TEXT, **asked), explain(lm, TEXT, **asked))


def test_a_tokenizer_takes_the_place_of_the_model(lm: LanguageModel, server: Served) -> None:
    mine = explain(lm.tokenizer, TEXT, target=TARGET, foil=" She sings.", engine=server.address("vllm"))
    agree(mine, explain(lm, TEXT, target=TARGET, foil=" She sings."))
    about = mine.provenance
    assert about["weights"] is None
    assert about["dtype"] is None
    assert about["engine"]["address"] == server.url
    assert "vllm" in about["scoring"]
    assert "calibrated" in about["scoring"]
    assert mine.trust().evaluations > 0
    assert mine.to_html()


def test_replaced_units_chats_and_games(lm: LanguageModel, server: Served) -> None:
    served = connect(server.address("sglang"), lm.tokenizer)
    replaced = Prompt(TEXT, unit="word", absence="replace")
    agree(explain(served, replaced, target=TARGET), explain(lm, replaced, target=TARGET))
    game = llm_attr.prompt_game(lm.tokenizer, TEXT, target=TARGET, engine=served)
    own = llm_attr.prompt_game(lm, TEXT, target=TARGET)
    full = torch.ones(1, 1, game.features, dtype=torch.bool)
    torch.testing.assert_close(game.values(full), own.values(full), atol=CLOSE, rtol=0)
    with pytest.raises(UnsupportedMethod, match="behind an engine"), game.randomised(0):
        pass


def test_the_answer_is_generated_there(lm: LanguageModel, server: Served) -> None:
    served = connect(server.address("vllm"), lm.tokenizer)
    sampled = {"max_new_tokens": 5, "do_sample": True, "seed": 3}
    one, again = (explain(served, TEXT, gen_args=sampled) for _ in range(2))
    assert one.output_ids == again.output_ids
    assert len(one.output_ids) <= 5
    with pytest.raises(UnknownKeyword, match="num_beams"):
        explain(served, TEXT, gen_args={"num_beams": 2})


def test_a_plan_counts_requests_and_tokens(lm: LanguageModel, server: Served) -> None:
    asked: dict[str, Any] = {"unit": "word", "target": TARGET}
    for dialect in ("sglang", "vllm"):
        served = connect(server.address(dialect), lm.tokenizer, price=2.0, per_request=4)
        expected, about = plan(served, TEXT, **asked), explain(served, TEXT, **asked).provenance
        assert expected.exact
        assert (expected.passes, expected.positions) == (about["passes"], about["positions"])
        assert expected.money == pytest.approx(expected.positions * 2e-6)
        assert (expected.tokens_reused > 0) is (dialect == "sglang")
        assert "tokens sent" in str(expected)


def test_what_needs_the_model_itself_is_refused(lm: LanguageModel, server: Served) -> None:
    served = connect(server.address("vllm"), lm.tokenizer, calibrate=False)
    masked = Prompt(TEXT, absence="mask")
    for prompt, options, kind, says in (
        (masked, {}, InvalidValue, "absence='mask'.*positions"),
        (TEXT, {"method": "integrated_gradients"}, UnsupportedMethod, "needs gradients"),
        (TEXT, {"scalar": "entropy"}, InvalidValue, "read from logits"),
        (TEXT, {"scalar": "kl"}, InvalidValue, "read from logits"),
        (TEXT, {"precision": "bf16"}, InvalidValue, "the server decides"),
        (TEXT, {"use_cached_outputs": False}, InvalidValue, "prefix cache"),
    ):
        with pytest.raises(kind, match=says):
            explain(served, prompt, target=TARGET, **options)  # type: ignore[call-overload]
    with pytest.raises(ContextTooLong):
        explain(served, "Dave " * 200, target=TARGET)


@pytest.mark.parametrize(
    ("address", "kind", "says"),
    [
        ("llamacpp:http://127.0.0.1:1", InvalidValue, "27174"),
        ("http://127.0.0.1:1", InvalidValue, "what its server is"),
        ("tgi:http://127.0.0.1:1", UnknownName, "sglang"),
        ("vllm:127.0.0.1:1", InvalidValue, "root of its server"),
        ("vllm:http://127.0.0.1:1/?key=secret", InvalidValue, "without a query"),
        ("vllm:http://127.0.0.1:9", EngineFailed, "failed 1 times"),
    ],
)
def test_addresses_that_lead_nowhere(lm: LanguageModel, address: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        connect(address, lm.tokenizer, retries=0)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("off_by_one", "off by one"),
        ("truncated", "cut off"),
        ("poisoned", "poisoned cache"),
        ("none", "no value for token 0"),
    ],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_wrong_scores_are_refused_by_name(lm: LanguageModel, dialect: str, fault: str, says: str) -> None:
    with serving(lm, fault=fault) as served, pytest.raises(EngineRefused, match=says):
        connect(served.address(dialect), lm.tokenizer)


@pytest.mark.parametrize("fault", ["429", "500", "timeout", "half"])
def test_a_server_that_fails_every_third_time_is_survived(lm: LanguageModel, fault: str) -> None:
    options = {"timeout": 0.5, "late": 0.6} if fault == "timeout" else {}
    late = {"late": options.pop("late")} if options else {}
    with serving(lm, fault=fault, **late) as bad:
        served = connect(bad.address("sglang"), lm.tokenizer, per_request=2, in_flight=2, **options, **QUICK)
        bad.scored.clear()
        agree(explain(served, TEXT, unit="word", target=TARGET), explain(lm, TEXT, unit="word", target=TARGET))
        assert max(bad.scored.values()) == 1


def test_what_was_answered_is_in_the_ledger_and_is_not_asked_again(lm: LanguageModel, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"unit": "word", "target": TARGET, "ledger": tmp_path / "scores.db"}
    with serving(lm) as good:
        served = connect(good.address("sglang"), lm.tokenizer, per_request=1, in_flight=1, retries=0)
        good.scored.clear()
        ask, count = served.endpoint.score, [0]

        def dying(queries: Any, stop: Any = None) -> Any:
            count[0] += 1
            if count[0] > 5:
                raise EngineFailed("the server died")
            return ask(queries, stop)

        served.endpoint.score = dying  # type: ignore[method-assign]
        with pytest.raises(EngineFailed, match="died"):
            explain(served, TEXT, **asked)
        assert len(good.scored) == 5
        served.endpoint.score = ask  # type: ignore[method-assign]
        assert plan(served, TEXT, **asked).from_ledger == 5
        result = explain(served, TEXT, **asked)
        assert max(good.scored.values()) == 1
        assert result.provenance["from_ledger"] == 5
        again = explain(connect(good.address("sglang"), lm.tokenizer), TEXT, **asked)
        assert again.provenance["passes"] == 0
    agree(again, explain(lm, TEXT, unit="word", target=TARGET))


def test_an_explanation_is_cancelled_between_answers(lm: LanguageModel, server: Served) -> None:
    served, stop = connect(server.address("vllm"), lm.tokenizer, per_request=1, in_flight=1), threading.Event()
    server.scored.clear()
    with pytest.raises(Cancelled), watching(lambda part: stop.set(), cancel=stop):
        explain(served, TEXT, unit="word", target=TARGET)
    assert len(server.scored) < 6


def test_a_key_is_nowhere(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "sk-very-secret-1234"
    with serving(lm, api_key=key) as locked:
        wrong = f"{key}-not"
        with pytest.raises(EngineFailed, match="401") as caught:
            connect(locked.address("vllm"), lm.tokenizer, api_key=wrong)
        assert wrong not in str(caught.value)
        monkeypatch.setenv("LLM_ATTR_API_KEY", key)
        served = connect(locked.address("vllm"), lm.tokenizer)
        result = explain(served, TEXT, target=TARGET, ledger=tmp_path / "scores.db")
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(served.endpoint)
    result.save(tmp_path / "saved")
    result.to_html(tmp_path / "page.html")
    told = [json.dumps(result.provenance, default=str), repr(served), repr(served.endpoint), *capfd.readouterr()]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not any(key in text for text in told)
    assert not any(key.encode() in content for content in files)


QUERY = Query(Variant.plain([1, 2]), (3, 4))


def vllm_rows(*rows: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "prompt_logprobs": [None, {"2": {"logprob": -9.0}}, *rows]}]}


@pytest.mark.parametrize(
    ("dialect", "answer", "kind", "says"),
    [
        (VLLM(), vllm_rows({"7": {"logprob": -1.0}}, {"4": {"logprob": -1.0}}), EngineRefused, "off"),
        (VLLM(), vllm_rows({"3": {"logprob": 2.0}}, {"4": {"logprob": -1.0}}), EngineRefused, "no log-probability"),
        (VLLM(), {"choices": [{"index": 0, "prompt_logprobs": None}]}, EngineRefused, "ignored"),
        (VLLM(), {"object": "error"}, EngineFailed, "dialect vllm"),
        (OpenAI(), {"choices": [{"index": 0, "logprobs": {"content": []}}]}, EngineFailed, "llama.cpp"),
        (
            SGLang(),
            [{"meta_info": {"input_token_logprobs": [[None, 2, None], [-1.0, 9, None], [-1.0, 4, None]]}}],
            EngineRefused,
            "are off",
        ),
        (SGLang(), "what", EngineFailed, "dialect sglang"),
    ],
)
def test_answers_of_another_form(dialect: Any, answer: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        dialect.scored(answer, [QUERY])


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_real_model_behind_a_server(smollm: Any, dialect: str) -> None:
    chat = [{"role": "user", "content": "Aksel repairs violins. He has a dog. What does Aksel repair?"}]
    with serving(smollm) as served:
        remote = connect(served.address(dialect), smollm.tokenizer)
        for method in ("feature_ablation", "kernel_shap"):
            asked = {"method": method, "target": "Aksel repairs violins."}
            agree(explain(remote, chat, **asked), explain(smollm, chat, **asked))
