"""Every text method on a model that is cut in three, with its middle on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model

import llm_attr
from llm_attr import LanguageModel, explain
from tests.devices.texts import ANSWER, FAMILY, HALVES, OPTIONS, PROMPT, numbers
from tests.zoo import quiet, tiny, tiny_model


def language_model(family: str, folder: Path | None = None) -> LanguageModel:
    model = tiny_model(family).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)
    if folder is not None:
        first, (middle, *last) = HALVES[family]
        places = dict.fromkeys(first, "cpu") | {middle: "disk"} | dict.fromkeys(last, "cpu")
        with quiet():
            model = dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)
        assert any(weight.is_meta for weight in model.parameters())
    return LanguageModel(model, tiny(family).tokenizer)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("method", llm_attr.methods())
def test_the_middle_on_disk(method: str, tmp_path: Path) -> None:
    family = FAMILY.get(method, "llama")
    how = {"method": method, "unit": "word", "target": ANSWER, **OPTIONS.get(method, {})}
    expected = numbers(explain(language_model(family), PROMPT, **how))
    found = numbers(explain(language_model(family, tmp_path), PROMPT, **how))
    for here, there in zip(expected, found, strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-6)
