"""Where a process that explains rows gets its model from."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.llm.model.fingerprint import identity
from llm_attr.llm.model.language_model import LanguageModel, as_language_model, load_model
from llm_attr.llm.model.tokenizer import TokenizerLike


@dataclass(frozen=True)
class ModelSource:
    """A loaded model; the name of one; or a function that loads one.

    Attributes:
        given: A `LanguageModel`, or a function without arguments that returns one; None for a name.
        name: The name, for `load_model`.
        options: Arguments of `load_model`.
    """

    given: LanguageModel | Callable[[], Any] | None = None
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any, tokenizer: TokenizerLike | None = None, options: Mapping[str, Any] | None = None) -> Any:
        """From the argument `model` of a caller.

        Raises:
            InvalidType: it is no model, or `options` are given for one that is loaded.
        """
        if isinstance(model, str | Path):
            if tokenizer is not None:
                raise InvalidType("the name of a model is loaded with its own tokenizer; leave tokenizer out")
            return cls(name=str(model), options=dict(options or {}))
        if options:
            raise InvalidType("model_options are arguments of load_model; pass the model's name for them")
        if tokenizer is None and not isinstance(model, LanguageModel | torch.nn.Module) and _is_function(model):
            return cls(given=model)
        return cls(given=as_language_model(model, tokenizer))

    @property
    def title(self) -> str:
        """The model's name, as far as it is known without loading it."""
        if isinstance(self.given, LanguageModel):
            return self.given.name
        return self.name or getattr(self.given, "__qualname__", type(self.given).__name__)

    def check_elsewhere(self) -> None:
        """Checks that another process can load the model by itself.

        Raises:
            InvalidType: the model is loaded here already, or the function cannot be sent.
        """
        if isinstance(self.given, LanguageModel):
            raise InvalidType(
                "each process loads a model of its own: pass the model's name (with model_options) or a function that "
                f"loads it, not the loaded {self.given.name!r}"
            )
        try:
            pickle.dumps(self.given)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InvalidType(
                f"the function that loads the model must be one of a module, which another process can import: {error}"
            ) from error

    def load(self, local: int = 0) -> LanguageModel:
        """The model, on the accelerator with this number if there are any.

        Raises:
            LlmAttrError: see `load_model`.
        """
        if isinstance(self.given, LanguageModel):
            return self.given
        options = dict(self.options)
        if torch.accelerator.is_available():
            place = local % torch.accelerator.device_count()
            torch.accelerator.set_device_index(place)
            options.setdefault("device_map", {"": f"{torch.accelerator.current_accelerator()}:{place}"})
        return as_language_model(self.given()) if self.given is not None else load_model(self.name, **options)


def hashes_of(language_model: LanguageModel) -> dict[str, Any]:
    """What of a model decides the results of a run."""
    known = identity(language_model)
    return {
        "weights": known["weights"],
        "tokenizer": known["tokenizer"],
        "chat template": known["template"],
        "dtype": str(language_model.dtype).removeprefix("torch."),
    }


def common_provenance(language_model: LanguageModel) -> dict[str, Any]:
    """Provenance that all results of a model have."""
    dtype = str(language_model.dtype).removeprefix("torch.")
    return {**identity(language_model), "model": language_model.name, "dtype": dtype}


def local_number() -> int:
    """The number of this process on its machine, as torchrun gives it."""
    number = os.environ.get("LOCAL_RANK", "0")
    if not number.isdigit():
        raise InvalidValue(f"LOCAL_RANK must be a number; got {number!r}")
    return int(number)


def _is_function(model: Any) -> bool:
    return callable(model) and not hasattr(model, "preprocess") and not hasattr(model, "config")
