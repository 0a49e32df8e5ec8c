"""Concepts given by sentences, beside slow plain references on a tiny model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_attr.core.concepts.directions import Direction
from llm_attr.errors import EmptyPrompt, EmptyTarget, InvalidShape, InvalidType, InvalidValue, UnknownName
from llm_attr.llm.concept.steering import steer, steering
from llm_attr.llm.concept.text_tcav import TextTCAV, decoder_blocks
from llm_attr.llm.prompt.chat import render
from llm_attr.llm.prompt.prompt import Prompt
from tests.llm.chats import CHATML, with_template
from tests.zoo import tiny

pytestmark = pytest.mark.usefixtures("one_thread")
FORMAL = ["We regret the delay.", "Kindly note this.", "It is my duty.", "I remain at your service."]
OTHERS = ["Hey, what's up?", "See you there!", "No way.", "Fine by me.", "That was fun."]


def states(lm: Any, ids: list[int]) -> list[torch.Tensor]:
    """The outputs of all blocks, read by plain hooks."""
    found, hooks = [], []
    for block in decoder_blocks(lm).values():
        hooks.append(
            block.register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
        )
    lm.model(input_ids=torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return [each.reshape(len(ids), -1) for each in found]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_activations_of_all_layers_in_one_pass(family: str, pool: Any) -> None:
    lm = tiny(family)
    passes: list[Any] = []
    handle = lm.model.register_forward_pre_hook(lambda *_: passes.append(1))
    found = TextTCAV(lm, pool=pool).activations(FORMAL)
    handle.remove()
    assert len(passes) == 1
    for row, text in enumerate(FORMAL):
        with torch.no_grad():
            plain = states(lm, lm.encode(text, special_tokens=True))
        for values, each in zip(found.values(), plain, strict=True):
            wanted = each[-1] if pool == "last" else each[1:].mean(0)
            torch.testing.assert_close(values[row], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_scores_are_derivatives(pool: Any) -> None:
    lm = tiny("llama")
    tcav = TextTCAV(lm, [0, -1], pool=pool)
    directions = tcav.directions(FORMAL, OTHERS, held_out=0)
    prompt, target, foil = "Dear Sir, yours", " truly", " xo"
    found = tcav.scores([prompt], directions, target, foil)
    ids = lm.encode(prompt, special_tokens=True)

    def gap(layer: str, shift: float) -> float:
        moved = torch.zeros(1)
        step = directions[layer].unit.float() * shift

        def move(_: Any, __: Any, out: Any) -> Any:
            hidden = (out[0] if isinstance(out, tuple) else out).clone()
            first = len(ids) - 1 if pool == "last" else 1
            hidden[:, first : len(ids)] += step
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        for sign, answer in ((1, target), (-1, foil)):
            more = lm.encode(answer, special_tokens=False)
            handle = lm.layers[layer].register_forward_hook(move)
            with torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([ids + more])).logits[0].double().log_softmax(-1)
            handle.remove()
            moved = moved + sign * sum(logits[len(ids) - 1 + n, token] for n, token in enumerate(more))
        return float(moved)

    for layer, values in found.items():
        slope = (gap(layer, 0.02) - gap(layer, -0.02)) / 0.04
        assert float(values[0]) == pytest.approx(slope, rel=0.02, abs=2e-3)


def test_significance_has_a_row_for_each_layer() -> None:
    lm = tiny("llama")
    state = torch.get_rng_state()
    found = TextTCAV(lm).significance(["Dear Sir,", "To whom"], FORMAL, OTHERS, " we", runs=4, score="magnitude")
    assert found.scores.shape == (3, 1, 4)
    assert found.chance.shape == (3, 4)
    assert ((found.corrected >= found.p_values) & (found.p_values > 0)).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_steering_moves_every_token_and_leaves_the_model() -> None:
    lm = tiny("llama")
    tcav = TextTCAV(lm, [1])
    [(layer, direction)] = tcav.directions(FORMAL, OTHERS, held_out=0).items()
    ids = lm.encode("Dear Sir,", special_tokens=True)
    with torch.no_grad():
        before = states(lm, ids)[1]
        with steering(lm, layer, direction, -2.0):
            after = states(lm, ids)[1]
    moved = (after - before) @ direction.unit.float()
    torch.testing.assert_close(moved, torch.full_like(moved, -2 * direction.scale), rtol=1e-3, atol=1e-4)
    found = steer(lm, "Dear Sir,", layer, direction, [-40, 0, 40], {"max_new_tokens": 6, "do_sample": False})
    plain = lm.model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :]
    assert found.texts[1] == lm.decode([each for each in plain.tolist() if each not in lm.end_ids])
    assert found.texts[0] != found.texts[2]
    assert "-40.00" in str(found)
    assert not lm.layers[layer]._forward_hooks


def test_steering_a_chat() -> None:
    lm = with_template(CHATML)
    [(layer, direction)] = TextTCAV(lm, [1]).directions(FORMAL, OTHERS, held_out=0).items()
    messages = [{"role": "user", "content": "Dear Sir. Hello."}]
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    found = steer(lm, messages, layer, direction, [0, 9], options)
    assert found.prompt == render(lm, messages)
    ids = lm.encode(found.prompt, special_tokens=False)
    plain = lm.model.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)[0, len(ids) :]
    assert found.texts[0] == lm.decode([each for each in plain.tolist() if each not in lm.end_ids])
    for unit in ("sentence", "token"):
        assert steer(lm, Prompt(messages, unit=unit), layer, direction, [0, 9], options) == found
    assert steer(lm, Prompt("Dear Sir,"), layer, direction) == steer(lm, "Dear Sir,", layer, direction)
    with pytest.raises(EmptyPrompt, match="prompt is empty"):
        steer(lm, [{"role": "user", "content": " "}], layer, direction)
    for wrong in (3, ["Dear Sir,"]):
        with pytest.raises(InvalidType, match="messages"):
            steer(lm, wrong, layer, direction)  # type: ignore[arg-type]


def test_bad_input() -> None:
    lm = tiny("llama")
    tcav = TextTCAV(lm, [0])
    [(layer, direction)] = tcav.directions(FORMAL, OTHERS).items()
    with pytest.raises(UnknownName, match="unknown pool 'max'"):
        TextTCAV(lm, pool="max")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="blocks 0 to 2; got 7"):
        TextTCAV(lm, [7])
    with pytest.raises(UnknownName, match=r"unknown layer 'model\.layer"):
        TextTCAV(lm, ["model.layer"])
    with pytest.raises(InvalidType, match="a list of strings"):
        tcav.activations("text")
    with pytest.raises(EmptyPrompt, match="texts has no text"):
        tcav.directions([], OTHERS)
    with pytest.raises(EmptyTarget, match="has no tokens"):
        tcav.scores(["Dear"], {layer: direction}, "")
    with pytest.raises(InvalidValue, match="at least 4 texts"):
        tcav.significance(["Dear"], FORMAL, OTHERS[:3], " a")
    with pytest.raises(InvalidValue, match="at least 3 runs"):
        tcav.significance(["Dear"], FORMAL, OTHERS, " a", runs=2)
    with pytest.raises(InvalidValue, match="finite number; got nan"):
        steer(lm, "Dear", layer, direction, [float("nan")])
    short = Direction(torch.ones(5, dtype=torch.float64), 0.0, 1.0, 1.0)
    with pytest.raises(InvalidShape, match="32 features; the direction has 5"):
        steer(lm, "Dear", layer, short)
