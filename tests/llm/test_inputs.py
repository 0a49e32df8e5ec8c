"""Template slots and tokens as features, side by side with Captum's classes of the same names."""

from __future__ import annotations

import itertools
import random
from typing import Any

import captum.attr as captum
import pytest
import torch
from captum.attr._utils.baselines import ProductBaselines as CaptumProductBaselines

from llm_attr.attr import ProductBaselines, TextTemplateInput, TextTokenInput
from llm_attr.errors import EmptyPrompt, InvalidShape, InvalidType, InvalidValue, UnknownName
from tests.zoo import tokenizer_of

TEXT = "Dave lives in it."
NAMED = {"a": "Dave", "b": "Oslo", "c": "it"}


def plus(*parts: str) -> str:
    return "+".join(parts)


def named(**parts: str) -> str:
    return "; ".join(f"{name}={part}" for name, part in parts.items())


TEMPLATES: dict[str, tuple[Any, ...]] = {
    "list": ("{} lives in {}.", ["Dave", "Palm Coast"]),
    "one value": ("Hello {}!", ["you"]),
    "repeated slot": ("{0} and {0} and {1}", ["a", "b"]),
    "baselines": ("{} lives in {}.", ["Dave", "Palm Coast"], ["Someone", "a place"]),
    "names": ("{b} is {a}'s, {c}", NAMED),
    "names, baselines in another order": ("{b} is {a}'s, {c}", NAMED, {"c": "z", "a": "x", "b": "y"}),
    "names and groups": ("{b} is {a}'s, {c}", NAMED, None, {"a": 1, "b": 0, "c": 1}),
    "groups": ("{} {} {}", ["a", "b", "c"], ["x", "y", "z"], [0, 0, 1]),
    "groups out of order": ("{} {} {}", ["a", "b", "c"], ["x", "y", "z"], [5, 2, 5]),
    "one group": ("{} {} {}", ["a", "b", "c"], None, [3, 3, 3]),
    "function": (plus, ["a", "b"]),
    "function of names": (named, NAMED, {"a": "x", "b": "y", "c": "z"}),
    "function as baselines": ("{} {}", ["a", "b"], lambda: ["x", "y"]),
    "function as baselines by name": (named, NAMED, lambda: {"b": "y", "a": "x", "c": "z"}),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_templates_as_captum(case: str) -> None:
    ours, theirs = TextTemplateInput(*TEMPLATES[case]), captum.TextTemplateInput(*TEMPLATES[case])
    assert torch.equal(ours.to_tensor(), theirs.to_tensor())
    assert ours.n_itp_features == theirs.n_itp_features
    assert list(ours.values) == list(theirs.values)
    assert ours.mask == theirs.mask
    assert ours.to_model_input() == theirs.to_model_input()
    for present in itertools.product([0.0, 1.0], repeat=ours.n_itp_features):
        row = torch.tensor([present])
        assert ours.to_model_input(row) == theirs.to_model_input(row)
    attributions = torch.arange(2.0 * ours.n_itp_features).view(2, -1)
    assert torch.equal(ours.format_attr(attributions), theirs.format_attr(attributions))


def test_named_baselines_from_a_function_go_by_name() -> None:
    inp = TextTemplateInput("{a} {b}", {"a": "1", "b": "2"}, lambda: {"b": "y", "a": "x"})
    assert inp.to_model_input(torch.zeros(1, 2)) == "x y"
    assert inp.to_model_input(torch.tensor([[1.0, 0.0]])) == "1 y"


TOKENS: dict[str, tuple[Any, ...]] = {
    "default": (),
    "baseline id": (5,),
    "baseline token": ("a",),
    "skip ids": (0, [0, 5]),
    "skip tokens": ("Ġin", ["<s>", "."]),
}


@pytest.mark.parametrize("case", TOKENS)
def test_tokens_as_captum(case: str) -> None:
    tokenizer = tokenizer_of("byte_bos")
    ours = TextTokenInput(TEXT, tokenizer, *TOKENS[case])
    theirs = captum.TextTokenInput(TEXT, tokenizer, *TOKENS[case])
    assert torch.equal(ours.to_tensor(), theirs.to_tensor())
    assert ours.to_tensor().dtype == theirs.to_tensor().dtype
    assert ours.values == theirs.values
    assert ours.n_itp_features == theirs.n_itp_features
    assert torch.equal(ours.inp_tensor, theirs.inp_tensor)
    assert torch.equal(ours.itp_tensor, theirs.itp_tensor)
    assert torch.equal(ours.to_model_input(), theirs.to_model_input())
    for present in itertools.product([0, 1], repeat=ours.n_itp_features):
        row = torch.tensor([present])
        assert torch.equal(ours.to_model_input(row), theirs.to_model_input(row))
    row = torch.arange(float(ours.n_itp_features))[None]
    assert torch.equal(ours.format_attr(row), theirs.format_attr(row))


def test_tokens_as_they_read() -> None:
    inp = TextTokenInput(TEXT, tokenizer_of("byte_bos"), skip_tokens=["<s>", "Ġlives"])
    assert inp.token_texts() == ["Dave", " in", " it", "."]


@pytest.mark.parametrize(
    "candidates",
    [
        [["a", "b", "c"], ["d"], ["e", "f"]],
        {"x": ["1", "2"], "y": ["3", "4", "5"]},
        {"x": ["1", "2"], ("y", "z"): [("p", "q"), ("r", "s")]},
    ],
)
def test_product_baselines_as_captum(candidates: Any) -> None:
    random.seed(5)
    theirs = CaptumProductBaselines(candidates)
    expected = [theirs() for _ in range(12)]
    random.seed(5)
    ours = ProductBaselines(candidates)
    assert [ours() for _ in range(6)] + [ours.sample() for _ in range(6)] == expected


def test_sampled_baselines_are_fixed() -> None:
    inp = TextTemplateInput("{} {}", ["a", "b"], ProductBaselines([list("cdefgh"), list("ijklmn")]), [1, 0])
    drawn = inp.sampled()
    absent = {drawn.to_model_input(torch.zeros(1, 2)) for _ in range(20)}
    assert len(absent) == 1
    assert len({inp.sampled().to_model_input(torch.zeros(1, 2)) for _ in range(40)}) > 1
    assert (drawn.mask, drawn.values, drawn.to_model_input()) == (inp.mask, inp.values, inp.to_model_input())
    fixed = TextTemplateInput("{}", ["a"])
    assert fixed.sampled() is fixed
    by_name = TextTemplateInput(
        "{x}{y}", {"x": "a", "y": "b"}, lambda: {"y": "2", "x": "1"}, {"x": 0, "y": 0}
    ).sampled()
    assert by_name.to_model_input(torch.zeros(1, 1)) == "12"


def test_making_an_input_draws_nothing() -> None:
    random.seed(1)
    before = random.getstate()
    TextTemplateInput("{}", ["a"], ProductBaselines([["b", "c"]])).to_model_input()
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("{}", []), EmptyPrompt, "at least one value"),
        (("{}", {}), EmptyPrompt, "at least one value"),
        (("{} {}", ["a"]), InvalidValue, "has a slot without a value"),
        (("{x}", {"y": "a"}), InvalidValue, r"has a slot without a value \('x'\); got \['y'\]"),
        (("{}", ["a"], ["b", "c"]), InvalidValue, r"baselines must have one entry per value \(1\); got 2"),
        (("{x}", {"x": "a"}, {"y": "b"}), InvalidValue, r"baselines must name the slots \['x'\]; got \['y'\]"),
        (("{x}", {"x": "a"}, ["b"]), InvalidType, "baselines must have the form of the values"),
        (("{}", ["a"], {"x": "b"}), InvalidType, "baselines must have the form of the values"),
        (("{}", ["a"], None, [0, 1]), InvalidValue, "mask must have one entry per value"),
        (("{}", ["a"], None, {"x": 1}), InvalidType, "mask must have the form of the values"),
    ],
)
def test_bad_templates(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TextTemplateInput(*arguments)


def test_an_error_in_a_function_is_its_own() -> None:
    def broken(value: str) -> str:
        return {"known": "x"}[value]

    with pytest.raises(KeyError, match="unknown"):
        TextTemplateInput(broken, ["unknown"])


def test_bad_samples() -> None:
    inp = TextTemplateInput("{} {}", ["a", "b"], lambda: ["c"])
    with pytest.raises(InvalidValue, match=r"baselines must have one entry per value \(2\); got 1"):
        inp.to_model_input(torch.zeros(1, 2))
    with pytest.raises(InvalidValue, match="baselines must have one entry per value"):
        inp.sampled()


@pytest.mark.parametrize("inp", [TextTemplateInput("{} {}", ["a", "b"]), None])
def test_the_wrong_number_of_features(inp: Any) -> None:
    inp = inp or TextTokenInput("Dave.", tokenizer_of("byte"))
    for shape in ((1, 3), (2,), (2, 2)):
        with pytest.raises(InvalidShape, match=r"\(1, 2\)"):
            inp.to_model_input(torch.ones(shape))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["a"],), InvalidType, "text must be a str; got list"),
        (([1, 2],), InvalidType, "text must be a str"),
        (("",), EmptyPrompt, "no token of ''"),
        (("..", 0, ["."]), EmptyPrompt, "after skip_tokens"),
        (("a", "nonsense"), UnknownName, "'nonsense'"),
        (("a", -1), UnknownName, "-1"),
        (("a", 10**6), UnknownName, "ids from 0 to"),
        (("a", 0, ["nonsense"]), UnknownName, "'nonsense'"),
    ],
)
def test_bad_tokens(arguments: Any, error: type[Exception], message: str) -> None:
    text, *others = arguments
    with pytest.raises(error, match=message):
        TextTokenInput(text, tokenizer_of("byte"), *others)


def test_unknown_tokens_are_told_from_the_unknown_token() -> None:
    tokenizer = tokenizer_of("wordpiece")
    with pytest.raises(UnknownName):
        TextTokenInput("Dave", tokenizer, "nonsense")
    assert TextTokenInput("Dave", tokenizer, "[UNK]").baselines == tokenizer.unk_token_id
