"""What absence means: deleted, replaced and masked units against plain scoring of what is left."""

from __future__ import annotations

import copy
import itertools
import string
from typing import Any, get_args

import pytest
import torch
import transformers
from torch import Tensor

import llm_attr
from llm_attr import LanguageModel, Prompt
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.features import Features
from llm_attr.errors import ContextTooLong, EmptyPrompt, InvalidValue, UnknownName
from llm_attr.llm.prompt.bound import Absence, BoundPrompt
from llm_attr.llm.scoring import passes
from llm_attr.llm.scoring.scorer import Scorer
from llm_attr.llm.scoring.text_game import TextGame
from tests.llm.chats import CHATML
from tests.reference.absence import masked_log_probs, owners, text_without
from tests.reference.scoring import answer_log_probs, leave_one_out
from tests.zoo import (
    CONTEXT,
    FAMILIES,
    TOKENIZERS,
    TREE_FAMILIES,
    VOCABULARY,
    CharacterTokenizer,
    tiny_model,
    tokenizer_of,
)

TOLERANCE = 1e-4
ANSWER = (5, 17, 30, 8)
ABSENCES: tuple[Absence, ...] = get_args(Absence)

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Dave came.\n\nIs he in?\n"}]
STEPS = [
    {"role": "user", "content": "Who is Dave?"},
    {"role": "assistant", "content": "A lawyer."},
    {"role": "user", "content": "Where is he?"},
    {"role": "assistant", "content": "Here."},
]

PROMPTS: dict[str, dict[str, Any]] = {
    "step": vars(Prompt.from_trace(STEPS, unit="step")),
    "token": {"content": "Dave lives in Palm Coast, he does."},
    "word": {"content": "Dave lives in  Palm Coast,\nhe does."},
    "sentence": {"content": "Dave came. He  lives here.\nWhat now? "},
    "paragraph": {"content": "Dave came.\nIt is so.\n\nHe lives here. And now?\n \nSay it."},
    "document": vars(Prompt.from_documents("Who came?", {"a": "Dave came. He is in.", "b": "It is late."})),
    "message": {"content": CHAT},
    "span": {"content": CHAT, "spans": ["Dave", "?", (0, 3, 8)]},
}
"""Content for each unit."""

VALUES = {
    "word": ["Dave", "lives", "in", "Palm", "Coast,", "he", "does."],
    "sentence": ["Dave came.", "He  lives here.", "What now?"],
    "paragraph": ["Dave came.\nIt is so.", "He lives here. And now?", "Say it."],
    "document": ["[a]\nDave came. He is in.", "[b]\nIt is late."],
    "message": ["Be kind.", "Dave came.\n\nIs he in?\n"],
    "span": ["kind.", "Dave", "?"],
}

_models: dict[tuple[str, str, bool], LanguageModel] = {}


def model_of(family: str, kind: str, template: bool = False) -> LanguageModel:
    """A tiny model with a tokenizer that knows every letter of the prompts; the same one for all tests."""
    if (family, kind, template) not in _models:
        tokenizer = copy.deepcopy(tokenizer_of(kind))
        if kind == "slow":
            tokenizer = CharacterTokenizer(string.printable, eos_token="</s>")
        tokenizer.chat_template = CHATML if template else None
        known = next((lm.model for (name, *_), lm in _models.items() if name == family), None)
        _models[family, kind, template] = LanguageModel(known or tiny_model(family), tokenizer, f"tiny {family}")
    return _models[family, kind, template]


def prompt_of(unit: str, **options: Any) -> Prompt:
    keywords = {
        name: value for name, value in PROMPTS[unit].items() if name in ("content", "documents", "spans", "trace")
    }
    return Prompt(**keywords, **{"unit": unit} | options)


def coalitions_of(count: int) -> list[list[bool]]:
    """All, none, each absent, each alone, the first two and the last two absent, every second."""
    rows = [[True] * count, [False] * count, [i % 2 > 0 for i in range(count)]]
    rows += [[i != absent for i in range(count)] for absent in range(count)]
    rows += [[i == alone for i in range(count)] for alone in (0, count // 2, count - 1)]
    rows += [[i > 1 for i in range(count)], [i < count - 2 for i in range(count)]]
    return [list(row) for row in dict.fromkeys(map(tuple, rows))]


def scores_of(prompt: BoundPrompt, scorer: Scorer, coalitions: list[list[bool]]) -> Tensor:
    with Evaluator("test", len(coalitions)) as evaluator:
        game = TextGame(prompt, Features.single((prompt.to_tensor(),)), ANSWER, scorer, evaluator)
        return game(torch.tensor(coalitions))


class Plain:
    """A bound prompt without any of the library's variants: its text, spans and contents, and plain scoring."""

    def __init__(self, lm: LanguageModel, prompt: BoundPrompt, absence: str, replacement: int | None = None) -> None:
        self.lm, self.prompt, self.absence, self.replacement = lm, prompt, absence, replacement
        self.special = not prompt.groups or prompt.groups[0].kind == "text"
        self.ids, self.owners = owners(lm.tokenizer, prompt.text, prompt.spans, special_tokens=self.special)
        if prompt.unit == "token":  # in a raw text each token is a unit, but for BOS
            self.owners = [place - len(self.ids) + len(prompt.spans) for place in range(len(self.ids))]
        bos, eos = lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id
        self.placeholder = eos if bos is None else bos

    def score(self, present: list[bool], answer: tuple[int, ...] = ANSWER) -> Tensor:
        here = [owner < 0 or present[owner] for owner in self.owners]
        if self.absence == "mask":
            ids = self.ids
            if not any(here):
                ids, here = [*ids[:-1], self.placeholder], [*here[:-1], True]
            return masked_log_probs(self.lm.model, ids, here, answer)
        return answer_log_probs(self.lm.model, self._left(present, here) or [self.placeholder], answer)

    def _left(self, present: list[bool], here: list[bool]) -> list[int]:
        if self.absence == "replace":
            assert self.replacement is not None
            return [token if kept else self.replacement for token, kept in zip(self.ids, here, strict=True)]
        if self.prompt.unit == "token":
            return [token for token, kept in zip(self.ids, here, strict=True) if kept]
        text = text_without(self.prompt.text, self.prompt.contents, self.prompt.spans, present)
        return list(self.lm.tokenizer.encode(text, add_special_tokens=self.special))


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("unit", PROMPTS)
@pytest.mark.parametrize("absence", ABSENCES)
def test_exact(kind: str, unit: str, absence: Absence) -> None:
    lm = model_of("llama", kind, template=unit in ("document", "message", "span", "step"))
    eos = lm.tokenizer.eos_token_id
    replacement = len(lm.tokenizer) - 1 if absence == "replace" and eos is None else None
    prompt = prompt_of(unit, absence=absence, replacement=replacement).bind(lm)
    assert prompt.values == VALUES.get(unit, prompt.values)
    plain = Plain(lm, prompt, absence, eos if replacement is None else replacement)
    frame = plain.special and plain.placeholder is None
    coalitions = [row for row in coalitions_of(len(prompt.values)) if any(row) or not frame]
    expected = torch.stack([plain.score(row) for row in coalitions])
    found = scores_of(prompt, Scorer(lm), coalitions)
    assert (found - expected).abs().max() < TOLERANCE
    assert (expected[1:] - expected[0]).abs().amax(1).min() > 10 * TOLERANCE or kind == "wordpiece"


def test_every_unit_is_there() -> None:
    assert set(PROMPTS) == set(llm_attr.llm.prompt.prompt.UNITS)


MASKED = [family for family in FAMILIES if family != "mamba"]


@pytest.mark.parametrize("family", MASKED)
@pytest.mark.parametrize("way", ["tree", "small packs", "whole"])
@pytest.mark.parametrize(("unit", "kind"), [("token", "byte"), ("sentence", "byte_bos"), ("message", "byte")])
def test_a_mask_is_the_attention_mask_of_the_model(
    family: str, way: str, unit: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "tree":
        monkeypatch.setattr(passes, "positions_that_fit", lambda _: 9)
    lm = model_of(family, kind, template=unit == "message")
    prompt = prompt_of(unit, absence="mask").bind(lm)
    plain = Plain(lm, prompt, "mask")
    coalitions = coalitions_of(len(prompt.values))
    scorer = Scorer(lm, cached=way != "whole")
    found = scores_of(prompt, scorer, coalitions)
    expected = torch.stack([plain.score(row) for row in coalitions])
    assert (found - expected).abs().max() < TOLERANCE
    assert scorer.strategy is not None
    by_tree = way != "whole" and family in TREE_FAMILIES
    assert scorer.strategy.kind == ("prefix tree" if by_tree else "whole sequences")


@pytest.mark.parametrize("family", MASKED)
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("absent", [[0], [0, 1, 2], [-1], [-3, -2, -1], [0, -1], [2, 3], "all", "all but one"])
def test_a_gap_anywhere(family: str, cached: bool, absent: Any) -> None:
    """At the very beginning, at the very end, wider than the window, and no token at all."""
    lm = model_of(family, "byte")
    prompt = prompt_of("token", absence="mask").bind(lm)
    count = len(prompt.values)
    gaps = {"all": range(count), "all but one": [*range(4), *range(5, count)]}
    missing = {place % count for place in (gaps[absent] if isinstance(absent, str) else absent)}
    present = [place not in missing for place in range(count)]
    found = scores_of(prompt, Scorer(lm, cached=cached), [present])[0]
    assert (found - Plain(lm, prompt, "mask").score(present)).abs().max() < TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "llama", "mistral", "opt", "qwen3"])
def test_a_mask_under_the_eager_kernel(family: str) -> None:
    lm = LanguageModel(tiny_model(family, "eager"), tokenizer_of("byte"), family)
    prompt = prompt_of("token", absence="mask").bind(lm)
    plain = Plain(lm, prompt, "mask")
    coalitions = coalitions_of(len(prompt.values))
    expected = torch.stack([plain.score(row) for row in coalitions])
    assert (scores_of(prompt, Scorer(lm), coalitions) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("unit", ["token", "word", "sentence"])
def test_a_model_that_counts_positions_by_its_mask_is_told_them(unit: str, cached: bool) -> None:
    """OPT gives what is behind a gap the positions of the gap, unless it is told where it stands."""
    lm = LanguageModel(tiny_model("opt"), tokenizer_of("byte_bos"), "opt")
    masked, deleted = (prompt_of(unit, absence=absence).bind(lm) for absence in ("mask", "delete"))
    coalitions = coalitions_of(len(masked.values))
    scorer = Scorer(lm, cached=cached)
    found = scores_of(masked, scorer, coalitions)
    plain = Plain(lm, masked, "mask")
    assert (found - torch.stack([plain.score(row) for row in coalitions])).abs().max() < TOLERANCE
    assert (found - scores_of(deleted, Scorer(lm), coalitions)).abs().max() > 0.1
    assert scorer.strategy is not None
    assert scorer.strategy.kind == ("prefix tree" if cached else "whole sequences")


@pytest.mark.parametrize("family", ["bloom", "falcon"])
def test_under_alibi_a_mask_closes_the_gap(family: str) -> None:
    """Distances are counted over what the mask leaves: as if the tokens were deleted."""
    lm = model_of(family, "byte")
    masked, deleted = (prompt_of("token", absence=absence).bind(lm) for absence in ("mask", "delete"))
    inner = [[place != absent for place in range(len(masked.values))] for absent in range(1, len(masked.values) - 1)]
    scorer = Scorer(lm)
    found = scores_of(masked, scorer, inner)
    assert (found - scores_of(deleted, Scorer(lm), inner)).abs().max() < TOLERANCE
    assert scorer.strategy is not None
    assert scorer.strategy.reason.endswith("positions under its mask are its own")


UNMASKED: dict[str, Any] = {
    "mamba": lambda: tiny_model("mamba"),
    "rwkv": lambda: transformers.RwkvForCausalLM(
        transformers.RwkvConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, context_length=64)
    ),
    "recurrent gemma": lambda: transformers.RecurrentGemmaForCausalLM(
        transformers.RecurrentGemmaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            lru_width=32,
        )
    ),
    "lfm2": lambda: transformers.Lfm2ForCausalLM(
        transformers.Lfm2Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            layer_types=["conv", "full_attention"],
        )
    ),
}


@pytest.mark.parametrize("family", UNMASKED)
@pytest.mark.parametrize("cached", [True, False])
def test_a_model_that_sees_what_is_masked_is_refused(family: str, cached: bool) -> None:
    lm = LanguageModel(UNMASKED[family]().eval(), tokenizer_of("byte_bos"), family)
    masked, deleted = (prompt_of("word", absence=absence).bind(lm) for absence in ("mask", "delete"))
    present = [[True] * 7, [True, False, *[True] * 5]]
    with pytest.raises(InvalidValue, match=f"absence='mask' means nothing to {family}.*absence='delete'"):
        scores_of(masked, Scorer(lm, cached=cached), present)
    assert scores_of(deleted, Scorer(lm, cached=cached), present).isfinite().all()


class Blind(torch.nn.Module):
    """A model whose forward takes a mask and does not look at it, as one with code of its own may do."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None, **more: Any) -> Any:
        return self.model(input_ids=input_ids, position_ids=position_ids, **more)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "model" else getattr(self.model, name)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_model_that_does_not_look_at_its_mask_is_found_out(rows: int) -> None:
    lm = LanguageModel(Blind(tiny_model("llama")), tokenizer_of("byte_bos"), "blind")
    masked = prompt_of("word", absence="mask").bind(lm)
    present = [[True, False, *[True] * 5], [True, True, False, *[True] * 4]]
    with pytest.raises(InvalidValue, match=r"changing such tokens changed its answer by \d"):
        scores_of(masked, Scorer(lm, cached=False), present[:rows])


@pytest.mark.parametrize(
    ("unit", "absence"), [(unit, absence) for unit in PROMPTS for absence in ABSENCES if absence != "delete"]
)
@pytest.mark.parametrize("kind", ["byte_bos", "slow"])
def test_nothing_is_tokenised_again(unit: str, absence: Absence, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _tokenised(unit, absence, kind, monkeypatch) == 0


@pytest.mark.parametrize("kind", ["byte_bos", "slow"])
def test_units_of_tokens_are_not_tokenised_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _tokenised("token", "delete", kind, monkeypatch) == 0
    assert _tokenised("word", "delete", kind, monkeypatch) == 8


def _tokenised(unit: str, absence: Absence, kind: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a text is tokenised for nine variants after the first."""
    lm = model_of("llama", kind, template=unit in ("document", "message", "span", "step"))
    prompt = prompt_of(unit, absence=absence).bind(lm)
    rows = itertools.islice(itertools.cycle(coalitions_of(len(prompt.values))), 9)
    calls, encode = [], type(lm.tokenizer)._encode_plus
    prompt.variant(next(rows))

    def counted(self: Any, *arguments: Any, **keywords: Any) -> Any:
        calls.append(arguments)
        return encode(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(type(lm.tokenizer), "_encode_plus", counted)
        for row in rows:
            prompt.variant(row)
    return len(calls)


def replaced(lm: LanguageModel, **options: Any) -> list[int]:
    """Ids of a prompt whose second sentence is replaced."""
    prompt = Prompt("Dave came. He left.", absence="replace", **options).bind(lm)
    return list(prompt.variant([True, False]).tokens)


@pytest.mark.parametrize("kind", [kind for kind in TOKENIZERS if kind != "unigram"])
def test_what_replaces(kind: str) -> None:
    tokenizer = copy.deepcopy(tokenizer_of(kind))
    lm = LanguageModel(tiny_model("llama"), tokenizer, "tiny")
    whole = tokenizer.encode("Dave came. He left.")
    left = [token for token in replaced(lm) if token != tokenizer.eos_token_id]
    assert tokenizer.decode(left, skip_special_tokens=True).strip() == "Dave came."
    assert set(replaced(lm)) - set(whole) == {tokenizer.eos_token_id}
    assert len(replaced(lm)) == len(whole)
    other = tokenizer.convert_ids_to_tokens(9)
    assert replaced(lm, replacement=9) == replaced(lm, replacement=other)
    assert [9 if token == tokenizer.eos_token_id else token for token in replaced(lm)] == replaced(lm, replacement=9)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(11)
    assert replaced(lm) == replaced(lm, replacement=11)


def test_nothing_to_replace_with() -> None:
    lm = LanguageModel(tiny_model("llama"), tokenizer_of("unigram"), "tiny")
    with pytest.raises(InvalidValue, match=r"tiny has neither a pad nor an EOS token; pass .* replacement=\.\.\."):
        replaced(lm)
    assert replaced(lm, replacement="<unk>") == replaced(lm, replacement=0)


@pytest.mark.parametrize("replacement", [-1, 10_000, "no such token"])
def test_a_replacement_that_is_no_token(replacement: Any) -> None:
    with pytest.raises(UnknownName, match="unknown token"):
        replaced(model_of("llama", "byte_bos"), replacement=replacement)


@pytest.mark.parametrize("absence", ["delete", "mask"])
def test_a_replacement_for_what_is_not_replaced(absence: Absence) -> None:
    with pytest.raises(InvalidValue, match="replacement is for absence='replace'"):
        Prompt("Hi.", absence=absence, replacement=3)


def test_an_unknown_absence() -> None:
    with pytest.raises(UnknownName, match=r"'delet' \(did you mean 'delete'\?\); accepted: delete, replace, mask"):
        Prompt("Hi.", absence="delet")  # type: ignore[arg-type]


@pytest.mark.parametrize("absence", ["delete", "mask"])
def test_an_empty_variant_without_a_token_to_stand_for_it(absence: Absence) -> None:
    lm = model_of("llama", "unigram")
    prompt = Prompt("Dave came. He left.", absence=absence).bind(lm)
    with pytest.raises(EmptyPrompt, match="neither a BOS nor an EOS token"):
        scores_of(prompt, Scorer(lm), [[False, False]])


def test_a_masked_prompt_takes_the_room_of_the_whole() -> None:
    lm = model_of("gpt2", "byte")
    long = Prompt(". ".join(["a"] * (CONTEXT // 2)), absence="mask", unit="word").bind(lm)
    with pytest.raises(ContextTooLong, match=f"tiny gpt2 has {CONTEXT}"):
        scores_of(long, Scorer(lm), [[True] + [False] * (len(long.values) - 1)])


def test_white_space_inside_a_unit_goes_with_it() -> None:
    lm = model_of("llama", "byte", template=True)
    prompt = prompt_of("message", absence="mask").bind(lm)
    frame = [prompt.text[: prompt.spans[0][0]], prompt.text[prompt.spans[0][1] : prompt.spans[1][0]]]
    frame.append(prompt.text[prompt.spans[1][1] :])
    assert lm.decode(list(prompt.variant([False, False]).tokens)) == "".join(frame)
    spaced = Prompt("Dave  came.  He  left.", absence="mask").bind(lm)
    assert lm.decode(list(spaced.variant([False, True]).tokens)).split() == ["He", "left."]
    assert spaced.spans[0][1] == len("Dave  came.")


@pytest.mark.parametrize("absence", ABSENCES)
@pytest.mark.parametrize("unit", ["token", "sentence", "message"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "opt", "bloom"])
def test_attributions(family: str, unit: str, absence: Absence) -> None:
    lm = model_of(family, "byte_bos", template=unit == "message")
    prompt = prompt_of(unit, absence=absence)
    result = llm_attr.explain(lm, prompt, target=list(ANSWER))
    bound = prompt.bind(lm)
    plain = Plain(lm, bound, absence, lm.tokenizer.eos_token_id)
    count = len(bound.values)
    whole = plain.score([True] * count)
    without = [plain.score([i != absent for i in range(count)]) for absent in range(count)]
    assert result.input_tokens == bound.values
    assert result.token_attr is not None
    found = torch.cat([result.seq_attr[None], result.token_attr])
    assert (found - leave_one_out(whole, without)).abs().max() < 4 * TOLERANCE


@pytest.mark.parametrize("absence", ["delete", "mask"])
def test_the_result_says_what_stood_for_an_empty_prompt(absence: Absence) -> None:
    lm = model_of("llama", "byte")
    prompt = Prompt("Dave came.", absence=absence)
    result = llm_attr.explain(lm, prompt, target=list(ANSWER))
    plain = Plain(lm, prompt.bind(lm), absence)
    assert result.provenance["empty_prompt"] == "</s>"
    expected = (plain.score([True]) - plain.score([False])).sum()
    assert abs(result.seq_attr.item() - expected.item()) < 4 * TOLERANCE
