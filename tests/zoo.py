"""Tiny random models of many families, and tokenizers of many kinds, made on the spot."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as subwords
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llm_attr import LanguageModel

VOCABULARY = 640
CONTEXT = 160
WINDOW = 4

WIDTHS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
SPECIAL: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDTHS)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**WIDTHS)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT, **SPECIAL)
    ),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **WIDTHS,
            sliding_window=WINDOW,
            layer_types=LAYERS,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=4.0,
            query_pre_attn_scalar=8,
        )
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**WIDTHS, sliding_window=WINDOW, layer_types=LAYERS, query_pre_attn_scalar=8)
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**WIDTHS, sliding_window=WINDOW)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            **SPECIAL,
        )
    ),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4, **SPECIAL)
    ),
    "falcon": lambda: FalconForCausalLM(
        FalconConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            alibi=True,
            **SPECIAL,
        )
    ),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4, **SPECIAL)
    ),
}
TREE_FAMILIES = ("llama", "qwen3", "gpt2", "gemma2", "gemma3", "mistral", "opt")
"""Those whose variants share their prefixes."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' advice about configurations and kernels."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def tiny_model(family: str, attention: str | None = None, seed: int = 0) -> Any:
    """A model whose weights are large enough that a wrong mask or position shows."""
    return copy.deepcopy(_tiny_model(family, attention, seed))


@cache
def _tiny_model(family: str, attention: str | None, seed: int) -> Any:
    with torch.random.fork_rng([]), quiet():
        torch.manual_seed(seed)
        model = FAMILIES[family]()
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and not name.endswith("A_log"):
                torch.nn.init.normal_(weight, 0.0, 0.3)
            elif name.endswith("bias"):
                torch.nn.init.normal_(weight, 0.0, 0.1)
        if attention is not None:
            model.set_attn_implementation(attention)
    return model.eval()


def tiny(family: str, kind: str = "byte_bos", attention: str | None = None) -> LanguageModel:
    """A tiny model with a tokenizer."""
    return LanguageModel(tiny_model(family, attention), tokenizer_of(kind), f"tiny {family}")


CORPUS = [
    "Dave lives in Palm Coast, FL and is a lawyer. His personal interests include fishing.",
    "The old mill in Tarnby was built in 1854. Aksel repairs violins in it. What does Aksel do?",
    "He said that the lighthouse was white, and the lake was blue; the keeper saw it all.",
]


def byte_level(bos: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(subwords.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "</s>", "<|im_start|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos:
        with_bos = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), with_bos])
    names = {"eos_token": "</s>"} | ({"bos_token": "<s>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def metaspace() -> PreTrainedTokenizerFast:
    """As SentencePiece makes it: `▁` for a space, bytes for unknown characters, BOS in front."""
    trained = Tokenizer(subwords.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=200, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False)
    )
    known = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    pieces = [token for token, _ in known] + [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: number for number, token in enumerate(pieces)}
    merges = [tuple(merge) for merge in _merges(trained)]
    tokenizer = Tokenizer(subwords.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "<unk>")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _merges(tokenizer: Tokenizer) -> list[Any]:
    import json

    return json.loads(tokenizer.to_str())["model"]["merges"]


def wordpiece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(subwords.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]")


def unigram() -> PreTrainedTokenizerFast:
    """With neither a BOS nor an EOS token."""
    tokenizer = Tokenizer(subwords.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


class CharacterTokenizer(PreTrainedTokenizer):
    """A tokenizer in Python, which knows no offsets: a token is a letter; what it does not know becomes `?`."""

    def __init__(self, alphabet: str = "abcdefghijklmnopqrstuvwxyzADHPTW .,?!", **names: Any) -> None:
        self._letters = {letter: number for number, letter in enumerate(alphabet)}
        super().__init__(**names)

    @property
    def vocab_size(self) -> int:
        return len(self._letters)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._letters) | dict(self.added_tokens_encoder)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._letters.get(token, self._letters["?"])

    def _convert_id_to_token(self, index: int) -> str:
        return {number: letter for letter, number in self._letters.items()}[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def save_vocabulary(self, save_directory: str | Path, filename_prefix: str | None = None) -> tuple[str, ...]:
        return ()


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte": byte_level,
    "byte_bos": lambda: byte_level(bos=True),
    "metaspace": metaspace,
    "wordpiece": wordpiece,
    "unigram": unigram,
    "slow": lambda: CharacterTokenizer(eos_token="</s>"),
}


@cache
def tokenizer_of(kind: str) -> Any:
    """The tokenizer of a kind; the same one for all tests."""
    with quiet():
        return TOKENIZERS[kind]()


def need_attention_in(dtype: torch.dtype) -> None:
    """Skips a test where torch has no attention of this type (ATEN_CPU_CAPABILITY=default where there is AMX)."""
    try:
        torch.nn.functional.scaled_dot_product_attention(*[torch.rand(1, 1, 256, 16, dtype=dtype)] * 3)
    except RuntimeError as refusal:
        pytest.skip(f"torch has no attention in {dtype} here: {refusal}")
