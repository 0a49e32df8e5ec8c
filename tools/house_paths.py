"""The files, classes, functions and call depth of five calls, counted in the `llm_attr` that is imported here.

`house.py` runs this file in a process of its own for each checkout; it prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import llm_attr
from llm_attr.attr import FeatureAblation, IntegratedGradients

PACKAGE = str(Path(llm_attr.__file__).parent)
TEXT = "Aksel lives in Odense. He repairs violins. He has a dog. It rains in the north."


class Trace:
    """Counts what is called in the package, while it is active in this thread."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.classes: set[str] = set()
        self.functions: set[str] = set()
        self.calls = self.depth = self._open = 0

    def __enter__(self) -> Trace:
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def counts(self) -> dict[str, int]:
        """Return the counts, by name."""
        return {
            "files": len(self.files),
            "classes": len(self.classes),
            "functions": len(self.functions),
            "calls": self.calls,
            "depth": self.depth,
        }

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(PACKAGE):
            return
        if event == "return":
            self._open -= 1
            return
        self._open += 1
        if code.co_name == "<module>":
            return
        self.calls += 1
        self.depth = max(self.depth, self._open)
        self.files.add(code.co_filename)
        self.functions.add(f"{code.co_filename}:{code.co_firstlineno}:{code.co_name}")
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        kind = first if isinstance(first, type) else type(first)
        if kind.__module__.startswith("llm_attr."):
            self.classes.add(f"{kind.__module__}.{kind.__qualname__}")


def tiny_language_model() -> Any:
    """A random Llama whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as subwords
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(subwords.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    return llm_attr.LanguageModel(LlamaForCausalLM(config).eval(), wrapped, "tiny")


def calls() -> dict[str, Callable[[], Any]]:
    """The five calls, by what they are called in the report."""
    lm, net, inputs = tiny_language_model(), torch.nn.Linear(4, 3), torch.rand(2, 4)
    asked: dict[str, Any] = {"unit": "sentence", "target": " He sings."}
    result = llm_attr.explain(lm, TEXT, method="kernel_shap", n_samples=16, **asked)
    return {
        "explain(kernel_shap)": lambda: llm_attr.explain(lm, TEXT, method="kernel_shap", n_samples=16, **asked),
        "explain(integrated_gradients)": lambda: llm_attr.explain(
            lm, TEXT, method="integrated_gradients", n_steps=5, **asked
        ),
        "FeatureAblation(net)": lambda: FeatureAblation(net).attribute(inputs, target=0),
        "IntegratedGradients(net)": lambda: IntegratedGradients(net).attribute(inputs, target=0),
        "for_output().to_html()": lambda: result.for_output(slice(0, 3)).to_html(),
    }


def main() -> None:
    """Print the counts of each call."""
    torch.set_num_threads(1)
    found = {}
    for name, call in calls().items():
        with Trace() as trace:
            call()
        found[name] = trace.counts()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
