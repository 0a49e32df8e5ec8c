"""Language models that torch.compile has compiled: hooks are seen, and all that is known of the model is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_attr import LanguageModel, Prompt, explain
from tests.zoo import tiny_model, tokenizer_of

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def ask(model: Any, **options: Any) -> Any:
    given = {"tokenizer": tokenizer_of("byte_bos"), "target": " He did"} | options
    return explain(model, Prompt("The old mill in Tarnby.", unit="word"), **given)


def two_layers() -> Any:
    """Each layer is compiled by itself, so that two show what three would."""
    model = tiny_model("llama")
    del model.model.layers[2:]
    model.config.num_hidden_layers = 2
    return model


def compiled(how: str) -> Any:
    model = two_layers()
    if how == "wrapped":
        return torch.compile(model, backend="eager")
    model.compile(backend="eager" if how == "in place" else "aot_eager")
    return model


@pytest.mark.parametrize("how", ["in place", pytest.param("in place, aot", marks=pytest.mark.slow), "wrapped"])
def test_layers_and_rules_after_scores(how: str) -> None:
    plain, model = two_layers(), compiled(how)
    ask(model)

    def of(model: Any, method: str, **options: Any) -> Tensor:
        return ask(model, method=method, **options).seq_attr

    for method in ("input_x_gradient", "integrated_gradients", "lrp"):
        torch.testing.assert_close(of(model, method, layer="model.layers.0"), of(plain, method, layer="model.layers.0"))
    again = {"method": "input_x_gradient", "layer": "model.layers.0", "gradient_checkpointing": True}
    torch.testing.assert_close(of(model, **again), of(plain, **again))


def test_a_wrapped_model_keeps_its_keywords_and_names() -> None:
    plain, model = two_layers(), compiled("wrapped")
    lm = LanguageModel(model, tokenizer_of("byte_bos"))
    assert "position_ids" in lm.forward_keywords
    assert "model.layers.0" in lm.layers
    found, right = ask(model), ask(plain)
    torch.testing.assert_close(found.seq_attr, right.seq_attr)
    for name in ("scoring", "passes", "positions", "head_rows"):
        assert found.provenance[name] == right.provenance[name]
    named = ask(model, method="input_x_gradient", layer="_orig_mod.model.layers.0")
    assert named.provenance["layer"] == "model.layers.0"
