"""The one-line way in, and what comes out of it."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult, Prompt
from llm_attr.attr import FeatureAblation, LLMAttribution, TextTemplateInput
from llm_attr.errors import (
    EmptyPrompt,
    EmptyTarget,
    InvalidShape,
    InvalidType,
    InvalidValue,
    UnknownKeyword,
    UnknownName,
    UnsupportedMethod,
)
from llm_attr.llm.model.language_model import as_language_model
from tests.reference.scoring import answer_log_probs, distinct_prefixes, leave_one_out, text_log_probs
from tests.zoo import tiny, tokenizer_of

TOLERANCE = 1e-4
TEXT = "Dave lives in Palm Coast. He is a lawyer.\nWhat does he like?"
TARGET = " He likes fishing."
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
CHAT = [{"role": "system", "content": "Be brief. Be kind."}, {"role": "user", "content": "Who is Dave? Tell me."}]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    found = tiny("llama")
    tokenizer = copy.deepcopy(tokenizer_of("byte_bos"))
    tokenizer.chat_template = TEMPLATE
    return LanguageModel(found.model, tokenizer, "tiny llama")


@pytest.fixture(scope="module")
def result(lm: LanguageModel) -> LLMAttributionResult:
    return llm_attr.explain(lm, TEXT, target=TARGET)


def lost(lm: LanguageModel, rows: list[list[int]], answer: Any) -> torch.Tensor:
    """The plain loop over the whole prompt and each left out."""
    whole, *without = [answer_log_probs(lm.model, row, answer) for row in rows]
    return leave_one_out(whole, without)


def both(found: LLMAttributionResult) -> torch.Tensor:
    assert found.token_attr is not None
    return torch.cat([found.seq_attr[None], found.token_attr])


def test_a_text_by_sentences(lm: LanguageModel, result: LLMAttributionResult) -> None:
    assert result.input_tokens == ["Dave lives in Palm Coast.", "He is a lawyer.", "What does he like?"]
    left = [
        TEXT,
        "He is a lawyer.\nWhat does he like?",
        "Dave lives in Palm Coast.\nWhat does he like?",
        "Dave lives in Palm Coast. He is a lawyer.",
    ]
    answer = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    assert (both(result) - lost(lm, [lm.tokenizer.encode(text) for text in left], answer)).abs().max() < TOLERANCE
    assert result.provenance["unit"] == "sentence"
    assert result.provenance["model"] == "tiny llama"


@pytest.mark.parametrize("unit", ["word", "token"])
def test_other_units(lm: LanguageModel, unit: str) -> None:
    found = llm_attr.explain(lm, TEXT, unit=unit, target=TARGET)
    if unit == "word":
        assert found.input_tokens == TEXT.split()
    assert len(found.input_tokens) >= 11
    assert found.provenance["unit"] == unit
    again = llm_attr.explain(lm, Prompt(TEXT, unit=unit), target=TARGET)
    assert torch.equal(both(found), both(again))


def test_messages(lm: LanguageModel) -> None:
    found = llm_attr.explain(lm, CHAT, target=TARGET)
    assert found.input_tokens == ["Be brief.", "Be kind.", "Who is Dave?", "Tell me."]
    whole = "system: Be brief. Be kind.\nuser: Who is Dave? Tell me.\nassistant:"
    left = [
        whole,
        "system: Be kind.\nuser: Who is Dave? Tell me.\nassistant:",
        "system: Be brief.\nuser: Who is Dave? Tell me.\nassistant:",
        "system: Be brief. Be kind.\nuser: Tell me.\nassistant:",
        "system: Be brief. Be kind.\nuser: Who is Dave?\nassistant:",
    ]
    rows = [lm.tokenizer.encode(text, add_special_tokens=False) for text in left]
    answer = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    assert (both(found) - lost(lm, rows, answer)).abs().max() < TOLERANCE


def test_other_ways_to_say_the_same(lm: LanguageModel, result: LLMAttributionResult) -> None:
    apart = llm_attr.explain(lm.model, TEXT, tokenizer=lm.tokenizer, target=TARGET)
    wrapped = LLMAttribution(FeatureAblation(lm.model), lm.tokenizer).attribute(Prompt(TEXT), TARGET)
    bound = llm_attr.explain(lm, Prompt(TEXT).bind(lm), target=TARGET, method="feature_ablation")
    for other in (apart, wrapped, bound):
        assert torch.equal(both(other), both(result))


def test_a_template(lm: LanguageModel) -> None:
    inp = TextTemplateInput("{} lives in {}.", ["Dave", "Palm Coast"])
    found = llm_attr.explain(lm, inp, target=TARGET, attr_target="prob")
    answer = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    whole = text_log_probs(lm, "Dave lives in Palm Coast.", answer).exp()
    without = text_log_probs(lm, " lives in Palm Coast.", answer).exp()
    assert torch.allclose(found.token_attr[:, 0], whole - without, atol=1e-6)
    assert found.seq_attr[0].item() == pytest.approx((whole.prod() - without.prod()).item(), rel=1e-3)


def test_methods() -> None:
    known = llm_attr.methods()
    assert "feature_ablation" in known
    assert all(line and "\n" not in line for line in known.values())


@pytest.mark.parametrize(
    ("keyword", "place"),
    [
        ("max_new_tokens", r"gen_args=\{'max_new_tokens': \.\.\.\}"),
        ("temperature", r"gen_args=\{'temperature'"),
        ("absence", r"Prompt\(\.\.\., absence=\.\.\.\)"),
        ("spans", r"Prompt\(\.\.\., spans"),
        ("pinned", r"Prompt\(\.\.\., pinned"),
        ("documents", "Prompt.from_documents"),
        ("dtype", "load_model"),
    ],
)
@pytest.mark.parametrize("method", ["feature_ablation", "integrated_gradients"])
def test_keywords_that_belong_elsewhere(lm: LanguageModel, keyword: str, place: str, method: str) -> None:
    with pytest.raises(UnknownKeyword, match=rf"takes no keyword '{keyword}' \(use {place}"):
        llm_attr.explain(lm, TEXT, method=method, **{keyword: 1})


def test_regions_as_text(lm: LanguageModel) -> None:
    found = llm_attr.explain(lm, TEXT, target='It is {"who": "Dave"}.', region="json:$.who")
    assert found.output_text.strip() == "Dave"
    after = llm_attr.explain(lm, TEXT, target="Hm.</think> He.", region="after:</think>")
    assert after.output_text.strip() == "He."
    named = llm_attr.explain(lm, TEXT, target="Hm.</think> He.", region=llm_attr.Region(after="</think>"))
    assert torch.equal(named.seq_attr, after.seq_attr)


def test_a_unit_beside_a_prompt_is_refused(lm: LanguageModel) -> None:
    for prompt in (Prompt(TEXT, unit="word"), [Prompt(TEXT), Prompt(TEXT, unit="word")]):
        with pytest.raises(InvalidValue, match="a Prompt has its own units; pass unit='token' to its constructor"):
            llm_attr.explain(lm, prompt, unit="token")


def test_unknown_names(lm: LanguageModel) -> None:
    listed = ", ".join(llm_attr.methods())
    with pytest.raises(UnknownName, match=rf"'feature_ablatoin' \(did you mean .*\); accepted: .*{listed}"):
        llm_attr.explain(lm, TEXT, method="feature_ablatoin")
    with pytest.raises(UnknownName, match="accepted: token, word, sentence"):
        llm_attr.explain(lm, TEXT, unit="paragraf")
    for method in ("feature_ablation", "shapley_values"):
        with pytest.raises(UnknownKeyword, match="takes no keyword 'args'"):
            llm_attr.explain(lm, TEXT, target=TARGET, method=method, args=1)
    with pytest.raises(UnknownKeyword, match=r"explain takes no keyword 'gen_arg' \(did you mean 'gen_args'\?\)"):
        llm_attr.explain(lm, TEXT, gen_arg={})


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ("", {}, EmptyPrompt),
        ("\n", {}, EmptyPrompt),
        ([], {}, EmptyPrompt),
        (TEXT, {"target": ""}, EmptyTarget),
        (7, {}, InvalidType),
        (TEXT, {"feature_mask": torch.zeros(1, 7)}, InvalidShape),
        (TEXT, {"feature_mask": [[0, 1, 2]]}, InvalidType),
        (TEXT, {"feature_mask": torch.full((1, 3), 0.5)}, InvalidType),
    ],
)
def test_bad_input(lm: LanguageModel, prompt: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        llm_attr.explain(lm, prompt, **({"target": " He"} | options))


def test_models_that_are_not_ready(lm: LanguageModel) -> None:
    with pytest.raises(InvalidType, match=r"load_model\('smollm2-135m'\)"):
        llm_attr.explain("smollm2-135m", TEXT)
    with pytest.raises(InvalidType, match="needs its tokenizer"):
        llm_attr.explain(lm.model, TEXT)
    other = tokenizer_of("byte")
    assert as_language_model(lm, other).tokenizer is other
    assert as_language_model(lm) is lm


def test_a_mask_groups_units(lm: LanguageModel, result: LLMAttributionResult) -> None:
    grouped = llm_attr.explain(lm, TEXT, target=TARGET, feature_mask=torch.tensor([[0, 1, 1]]))
    assert grouped.seq_attr[1] == grouped.seq_attr[2]
    assert grouped.seq_attr[0].item() == pytest.approx(result.seq_attr[0].item(), abs=TOLERANCE)


def test_what_the_result_holds(lm: LanguageModel, result: LLMAttributionResult) -> None:
    tokens = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    assert result.output_ids == tuple(tokens)
    assert result.output_text == "".join(result.output_tokens) == TARGET
    assert result.seq_attr.shape == (3,)
    assert result.token_attr is not None
    assert result.token_attr.shape == (len(tokens), 3)
    assert (result.token_attr.sum(0) - result.seq_attr).abs().max() < TOLERANCE
    assert result.output_probs is not None
    assert ((result.output_probs > 0) & (result.output_probs < 1)).all()
    assert "LLMAttributionResult(3 units -> ' He likes fishing.'" in repr(result)


def test_top(result: LLMAttributionResult) -> None:
    ranked = result.top(10)
    assert [one.attribution for one in ranked] == sorted(result.seq_attr.tolist(), reverse=True)
    assert all(result.input_tokens[one.position] == one.text for one in ranked)
    assert result.top(1) == ranked[:1]
    assert result.top(0) == result.top(-1) == []


def test_dict_and_json(result: LLMAttributionResult, tmp_path: Path) -> None:
    plain = result.to_dict()
    assert json.loads(result.to_json(tmp_path / "r.json")) == plain
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == plain
    again = LLMAttributionResult(
        **{
            key: torch.tensor(value) if key in ("seq_attr", "token_attr", "output_probs") else value
            for key, value in plain.items()
        }
    )
    assert again.to_dict() == plain
    assert torch.equal(both(again), both(result))
    again.to_html()


def test_show_keeps_the_width(result: LLMAttributionResult, capsys: pytest.CaptureFixture[str]) -> None:
    for width in (40, 80, 200):
        result.show(width=width)
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= width
        assert "Palm Coast" in shown


def test_html_needs_nothing_from_elsewhere(result: LLMAttributionResult, tmp_path: Path) -> None:
    page = result.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    fragment = result._repr_html_()
    for html in (page, fragment):
        assert "Palm Coast" in html
        assert not re.search(r"(src|href)\s*=\s*[\"']?(?!data:)[^\"'#\s]|@import|url\(|https?://", html)
    assert page.lstrip().lower().startswith("<!doctype html>")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_plots(result: LLMAttributionResult) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    for figure, axes in (result.plot_seq_attr(), result.plot_token_attr()):
        assert isinstance(figure, Figure)
        assert isinstance(axes, Axes)
    pyplot.close("all")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_levels(lm: LanguageModel, result: LLMAttributionResult) -> None:
    from matplotlib.figure import Figure

    words = llm_attr.explain(lm, TEXT, unit="word", target=TARGET)
    axes = Figure().add_subplot()
    figure, drawn = words.plot_levels(result, ax=axes)
    assert (figure, drawn) == (axes.get_figure(), axes)
    names = "sentences: their own explanation; words: their own explanation"
    assert names in axes.get_xlabel()
    assert names in words.to_html(levels=[result])
    for other in (llm_attr.explain(lm, TEXT + " Really?", target=TARGET), llm_attr.explain(lm, "A.", target=TARGET)):
        with pytest.raises(InvalidValue, match="the same text"):
            result.plot_levels(other)


def test_a_result_without_tokens() -> None:
    bare = LLMAttributionResult(input_tokens=["a", "a"], output_tokens=["x", "y"], seq_attr=torch.tensor([1.0, 2.0]))
    assert bare.seq_attr_dict == {"a": 2.0}
    assert bare.output_text == "xy"
    assert json.loads(bare.to_json())["token_attr"] is None
    bare.to_html()
    with pytest.raises(UnsupportedMethod, match="plot_seq_attr"):
        bare.plot_token_attr()


@pytest.mark.parametrize(
    "wrong",
    [{"seq_attr": torch.zeros(3)}, {"token_attr": torch.zeros(2, 1)}, {"output_probs": torch.zeros(2)}],
)
def test_a_result_whose_parts_do_not_fit(wrong: dict[str, Any]) -> None:
    fitting = {"input_tokens": ["a", "b"], "output_tokens": ["x"], "seq_attr": torch.zeros(2)}
    with pytest.raises(InvalidShape, match=next(iter(wrong))):
        LLMAttributionResult(**(fitting | wrong))


NOTES = (
    "The nearest station is four kilometres away. The old mill in Tarnby was built in 1854. In 1921 a fire destroyed "
    "its sails. Aksel Holm bought the mill in 1987 and repairs violins in it."
)
CHATS = {"In which year was the mill built?": ("1854", None), "What does Aksel Holm repair?": ("violins", "violins")}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("question", CHATS)
def test_a_real_chat(smollm: LanguageModel, question: str) -> None:
    chat = [{"role": "user", "content": f"{NOTES}\n\n{question}"}]
    fact, target = CHATS[question]
    found = llm_attr.explain(smollm, chat, target=target)
    assert fact in found.output_text
    assert fact in found.top(1)[0].text
    prompt = Prompt(chat).bind(smollm)
    count = len(prompt.spans)
    assert found.input_tokens == prompt.values
    rows = [prompt.to_model_input()[0].tolist()]
    rows += [prompt.to_model_input(1 - torch.eye(count)[i : i + 1])[0].tolist() for i in range(count)]
    whole = smollm.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert rows[0] == list(whole)
    assert (both(found) - lost(smollm, rows, found.output_ids)).abs().max() < 1e-3  # of up to 40 nats
    answer = list(found.output_ids or ())
    assert found.provenance["positions"] <= distinct_prefixes([row + answer[:-1] for row in rows])


@pytest.mark.real
def test_a_real_template(smollm: LanguageModel) -> None:
    template, values = "{} lives in {}, {} and is a {}.", ["Dave", "Palm Coast", "FL", "lawyer 🙂"]
    found = llm_attr.explain(smollm, TextTemplateInput(template, values), target=TARGET)
    texts = [template.format(*(["", *values[1:]] if i == 0 else [*values[:i], "", *values[i + 1 :]])) for i in range(4)]
    rows = [smollm.tokenizer.encode(text) for text in (template.format(*values), *texts)]
    assert (both(found) - lost(smollm, rows, found.output_ids)).abs().max() < 1e-3  # of up to 40 nats
