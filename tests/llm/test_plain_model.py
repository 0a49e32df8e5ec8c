"""Models and tokenizers that are not of transformers: the few methods that Captum asks for are enough."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import captum.attr as captum
import pytest
import torch
from torch import Tensor, nn

import llm_attr
import llm_attr.attr as ours
from llm_attr import LanguageModel, LLMAttributionResult, Prompt
from llm_attr.errors import EmptyPrompt, InvalidType, InvalidValue, NoRule, NotALanguageModel, UnsupportedMethod
from llm_attr.llm.gradients.methods import gradient_methods
from tests.zoo import tiny

LETTERS = "abcdefghijklmnopqrstuvwxyzADHPTW .,?!"
TEXT = "Aksel plays. He has a dog."
ANSWER = " He plays."


@dataclass
class LetterTokenizer:
    """A token is a letter. With offsets, if it is told to know them. As a dataclass it is no key of a dict."""

    offsets: bool = True
    eos_token_id: int | None = None

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None) -> Any:
        ids = [max(0, LETTERS.find(letter)) for letter in text]
        return torch.tensor([ids]) if return_tensors == "pt" else ids

    def decode(self, token_ids: Any) -> str:
        return "".join(LETTERS[int(token)] for token in token_ids)

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        return [f"<{LETTERS[int(token)]}>" for token in ids]

    def __call__(self, text: str, add_special_tokens: bool = True, return_offsets_mapping: bool = False) -> Any:
        ids = self.encode(text)
        if return_offsets_mapping and not self.offsets:
            raise NotImplementedError("this tokenizer knows no offsets")
        return {"input_ids": ids, "offset_mapping": [(i, i + 1) for i in range(len(ids))]}


class Recurrent(nn.Module):
    """A language model of an embedding, a recurrent layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.words = nn.Embedding(len(LETTERS), 8)
            self.body = nn.GRU(8, 16, batch_first=True)
            self.head = nn.Linear(16, len(LETTERS))
            for weight in self.parameters():
                nn.init.normal_(weight, 0.0, 0.5)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.head(self.body(self.words(input_ids))[0]))

    def generate(self, input_ids: Tensor, max_new_tokens: int = 3, do_sample: bool = False, **_: Any) -> Tensor:
        for _step in range(max_new_tokens):
            last = self(input_ids).logits[:, -1]
            new = torch.multinomial(last.softmax(-1), 1) if do_sample else last.argmax(-1, keepdim=True)
            input_ids = torch.cat([input_ids, new], 1)
        return input_ids


class Strict(Recurrent):
    """Takes the ids alone, under another name."""

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return SimpleNamespace(logits=self.head(self.body(self.words(x))[0]))


@pytest.fixture(scope="module")
def model() -> Recurrent:
    return Recurrent().eval()


def inputs(of: Any, tokenizer: Any) -> list[Any]:
    template = of.TextTemplateInput("{} plays {} and {}.", ["Aksel", "a dog", "He"], baselines=["He", "it", "She"])
    return [of.TextTokenInput(TEXT, tokenizer), template]


def compared(make: Any, which: int, **options: Any) -> None:
    """Both libraries on the same input, by the same call."""
    tokenizer = LetterTokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = make(captum, tokenizer).attribute(inputs(captum, tokenizer)[which], **options)
    found = make(ours, tokenizer).attribute(inputs(ours, tokenizer)[which], **options)
    torch.testing.assert_close(found.seq_attr, theirs.seq_attr, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.token_attr, theirs.token_attr, rtol=1e-4, atol=1e-5)
    assert len(found.output_tokens) == len(theirs.output_tokens)


@pytest.mark.parametrize("method", ["FeatureAblation", "ShapleyValues"])
@pytest.mark.parametrize("options", [{"target": ANSWER}, {"gen_args": {"max_new_tokens": 4}}, {}], ids=str)
@pytest.mark.parametrize("which", [0, 1])
def test_games_as_captum(model: Recurrent, method: str, options: dict[str, Any], which: int) -> None:
    if method == "ShapleyValues" and which == 0:
        return  # a subset of 26 tokens each

    def make(of: Any, tokenizer: Any) -> Any:
        return of.LLMAttribution(getattr(of, method)(model), tokenizer)

    compared(make, which, use_cached_outputs=False, **options)


@pytest.mark.parametrize("method", ["LayerIntegratedGradients", "LayerGradientXActivation"])
@pytest.mark.parametrize("options", [{"target": ANSWER}, {"gen_args": {"max_new_tokens": 4}}], ids=str)
def test_gradients_as_captum(model: Recurrent, method: str, options: dict[str, Any]) -> None:
    def make(of: Any, tokenizer: Any) -> Any:
        return of.LLMGradientAttribution(getattr(of, method)(model, model.words), tokenizer)

    compared(make, 0, **options)


@pytest.mark.parametrize("kind", [Recurrent, Strict])
@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("unit", ["token", "word", "sentence"])
def test_units_of_a_text(kind: type[Recurrent], offsets: bool, unit: str) -> None:
    lm = LanguageModel(kind().eval(), LetterTokenizer(offsets))
    result = llm_attr.explain(lm, TEXT, unit=unit, target=ANSWER)
    answer = lm.encode(ANSWER, special_tokens=False)

    def score(text: str) -> Tensor:
        ids = lm.encode(text, special_tokens=True)
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
        return logits.log_softmax(-1)[range(len(answer)), answer].sum()

    bound = Prompt(TEXT, unit=unit).bind(lm)
    left = [bound.without([i != absent for i in range(len(bound.spans))]) for absent in range(len(bound.spans))]
    if unit == "token":
        left = [TEXT[:i] + TEXT[i + 1 :] for i in range(len(TEXT))]
    torch.testing.assert_close(
        result.seq_attr, torch.stack([score(TEXT) - score(text) for text in left]), rtol=1e-4, atol=1e-5
    )
    assert result.provenance["scoring"] == "whole sequences (it is no model of transformers)"
    assert "".join(result.output_tokens) == ANSWER


@pytest.mark.parametrize("method", sorted(llm_attr.methods()))
def test_every_method(model: Recurrent, method: str) -> None:
    """Each gives an answer, or says by name what the model has that it cannot follow."""
    tokenizer = LetterTokenizer(eos_token_id=2)
    options = {"n_steps": 4} if "integrated" in method else {}
    call = {"target": ANSWER, "method": method} | options
    if method in ("deep_lift", "layer_deep_lift", "lrp", "layer_lrp"):
        with pytest.raises(NoRule, match="recurrent"):
            llm_attr.explain(model, TEXT, tokenizer=tokenizer, **call)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rectifiers that the model does not have
        found = llm_attr.explain(model, TEXT, tokenizer=tokenizer, **call)
    assert found.seq_attr.isfinite().all()
    assert found.seq_attr.abs().sum() > 0
    assert (method in gradient_methods()) == (found.provenance.get("scoring") is None)


def test_sampling_draws_from_torch(model: Recurrent) -> None:
    lm = LanguageModel(model, LetterTokenizer())
    options = {"max_new_tokens": 6, "do_sample": True}
    ids = torch.tensor([lm.encode(TEXT, special_tokens=True)])
    torch.manual_seed(3)
    expected = model.generate(ids, **options)[0, ids.shape[1] :].tolist()
    torch.manual_seed(3)
    assert list(llm_attr.explain(lm, TEXT, gen_args=options).output_ids) == expected
    assert list(llm_attr.explain(lm, TEXT, gen_args={**options, "seed": 3}).output_ids) == expected


def test_one_of_the_two_is_of_transformers(model: Recurrent) -> None:
    llama = tiny("llama")
    lm = LanguageModel(llama.model, LetterTokenizer())
    result = llm_attr.explain(lm, TEXT, target=ANSWER)
    assert result.provenance["scoring"].startswith("prefix tree")
    whole = llm_attr.explain(lm, TEXT, target=ANSWER, use_cached_outputs=False)
    torch.testing.assert_close(result.seq_attr, whole.seq_attr, rtol=1e-3, atol=1e-3)
    slow = tiny("llama", "slow").tokenizer
    assert slow.encode("Aksel") == LetterTokenizer().encode("Aksel")
    other = llm_attr.explain(LanguageModel(model, slow), TEXT, target=ANSWER)
    own = llm_attr.explain(LanguageModel(model, LetterTokenizer()), TEXT, target=ANSWER)
    assert torch.equal(other.seq_attr, own.seq_attr)


def test_what_comes_after(model: Recurrent, tmp_path: Path) -> None:
    lm = LanguageModel(model, LetterTokenizer())
    assert "Recurrent" in repr(lm)
    planned = llm_attr.plan(lm, TEXT, target=ANSWER)
    result = llm_attr.explain(lm, TEXT, target=ANSWER)
    assert planned.passes == result.provenance["passes"]
    result.save(tmp_path / "saved")
    loaded = LLMAttributionResult.load(tmp_path / "saved")
    assert torch.equal(loaded.seq_attr, result.seq_attr)
    assert result.for_output("plays").output_text == "plays"


def test_nothing_of_the_model_changes(model: Recurrent) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    llm_attr.explain(model, TEXT, tokenizer=LetterTokenizer(), target=ANSWER, method="saliency", baseline=0)
    assert all(module.training for module in model.modules())
    model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


class Masked(Strict):
    """Each token sees the mean of those before it that the mask leaves in."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:  # type: ignore[override]
        weights = attention_mask[..., None].to(self.words.weight.dtype)
        mean = (self.words(input_ids) * weights).cumsum(1) / weights.cumsum(1).clamp(min=1)
        return SimpleNamespace(logits=self.head(mean.repeat(1, 1, 2)))


def test_tokens_under_a_mask(model: Recurrent) -> None:
    masked = Prompt(TEXT, unit="sentence", absence="mask")
    with pytest.raises(InvalidValue, match=r"forward takes an attention_mask, which Recurrent does not"):
        llm_attr.explain(model, masked, tokenizer=LetterTokenizer(), target=ANSWER)
    lm = LanguageModel(Masked().eval(), LetterTokenizer())
    answer = torch.tensor(lm.encode(ANSWER, special_tokens=False))
    ids = torch.cat([torch.tensor(lm.encode(TEXT, special_tokens=True)), answer])[None]
    first = len("Aksel plays.")

    def score(hidden: slice) -> Tensor:
        mask = torch.ones_like(ids)
        mask[0, hidden] = 0
        logits = lm.model(ids, mask).logits[0, -len(answer) - 1 : -1]
        return logits.log_softmax(-1)[range(len(answer)), answer].sum()

    with torch.no_grad():
        whole, *left = score(slice(0, 0)), score(slice(0, first)), score(slice(first + 1, len(TEXT)))
    found = llm_attr.explain(lm, masked, target=ANSWER).seq_attr
    torch.testing.assert_close(found, whole - torch.stack(left), rtol=1e-4, atol=1e-5)


class WithoutLogits(Recurrent):
    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return super().forward(input_ids).logits


class OneRow(Recurrent):
    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=super().forward(input_ids).logits[:, -1])


class WithPlaces(Recurrent):
    """More places than words, and these first: which layer takes the ids is seen, not guessed."""

    def __init__(self) -> None:
        super().__init__()
        words, self.words = self.words, nn.Embedding(256, 8)
        self.places, self.words = self.words, words
        self.kinds = nn.Embedding(2, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        places = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        embedded = self.words(input_ids) + self.places(places) + self.kinds(torch.zeros_like(input_ids))
        return SimpleNamespace(logits=self.head(self.body(embedded)[0]))


def test_a_model_of_several_embeddings() -> None:
    made = WithPlaces().eval()
    assert LanguageModel(made, LetterTokenizer()).embedding is made.words

    def make(of: Any, tokenizer: Any) -> Any:
        return of.LLMGradientAttribution(of.LayerIntegratedGradients(made, made.words), tokenizer)

    compared(make, 0, target=ANSWER)
    with pytest.raises(InvalidValue, match="target holds 37, which is not a token id: the model has 37 tokens"):
        llm_attr.explain(made, TEXT, tokenizer=LetterTokenizer(), target=[37])


class Unembedded(Recurrent):
    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.head(self.body(self.words.weight[input_ids])[0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (WithoutLogits, r"must return an object with logits \(batch, tokens, vocabulary\).*got Tensor"),
        (OneRow, r"got logits of shape \("),
    ],
)
def test_models_that_give_no_logits(make: type[nn.Module], message: str) -> None:
    with pytest.raises(NotALanguageModel, match=message):
        llm_attr.explain(make(), TEXT, tokenizer=LetterTokenizer(), target=ANSWER)


def test_what_is_asked_for_by_name(model: Recurrent) -> None:
    tokenizer = LetterTokenizer()
    with pytest.raises(NotALanguageModel, match=r"no nn.Embedding of Unembedded takes the token ids"):
        llm_attr.explain(Unembedded(), TEXT, tokenizer=tokenizer, target=ANSWER, method="saliency", baseline=0)
    assert llm_attr.explain(Unembedded(), TEXT, tokenizer=tokenizer, target=[3, 4]).seq_attr.abs().sum() > 0
    with pytest.raises(NotALanguageModel, match="a transformers causal language model"):
        llm_attr.explain(nn.Linear(2, 2), TEXT, tokenizer=tokenizer, target=ANSWER)
    with pytest.raises(InvalidType, match="or have encode, decode, convert_ids_to_tokens and __call__; got object"):
        LanguageModel(model, object())  # type: ignore[arg-type]
    with pytest.raises(EmptyPrompt, match="neither a BOS nor an EOS token"):
        llm_attr.explain(model, "Aksel.", tokenizer=tokenizer, target=ANSWER)
    with pytest.raises(InvalidValue, match="has no chat template"):
        llm_attr.explain(model, [{"role": "user", "content": "He"}], tokenizer=tokenizer, target=ANSWER)
    with pytest.raises(UnsupportedMethod):
        ours.LLMAttribution(ours.Saliency(model), tokenizer)
