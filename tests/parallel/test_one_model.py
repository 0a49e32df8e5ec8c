"""Several processes that hold one model: tensor parallel, FSDP, and copies of such a model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import llm_attr
from llm_attr import LanguageModel, explain
from llm_attr.errors import EmptyTarget, NoRule
from tests.parallel.processes import launch, needs_gloo, values
from tests.zoo import tiny_model, tokenizer_of

pytestmark = [
    needs_gloo,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.* will take (at most )?about"),  # on a busy machine
]

FACTS = "Aksel repairs violins. Berit paints boats. Carl sings. What does Aksel do?"
ANSWER = " He repairs."
WAYS: dict[str, dict[str, Any]] = {
    "ablation": {},
    "kernel_shap": {"method": "kernel_shap", "unit": "word", "n_samples": 40},
    "input_x_gradient": {"method": "input_x_gradient"},
    "integrated": {"method": "integrated_gradients", "n_steps": 6},
}
MODEL = tiny_model("llama").double()


def language_model(model: Any) -> LanguageModel:
    return LanguageModel(model, tokenizer_of("byte_bos"))


def explained(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: explain(lm, FACTS, target=ANSWER, **how).seq_attr for name, how in WAYS.items()}


def tensor_parallel(processes: int, size: int) -> Any:
    """The model over each `size` of the processes."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (processes // size, size), mesh_dim_names=("copy", "part"))["part"]
    model = copy.deepcopy(MODEL)
    columns, rows = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), ("o_proj", "down_proj")
    for layer in model.model.layers:
        plan: dict[str, Any] = {f"self_attn.{name}": ColwiseParallel() for name in columns[:3]}
        plan |= {f"mlp.{name}": ColwiseParallel() for name in columns[3:]}
        plan |= {"self_attn.o_proj": RowwiseParallel(), "mlp.down_proj": RowwiseParallel()}
        assert len(plan) == len(columns) + len(rows)
        parallelize_module(layer, mesh, plan)
    return model


def fully_sharded() -> Any:
    dist.init_process_group("gloo")
    model = copy.deepcopy(MODEL)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return explained(language_model(MODEL))


def check(found: list[dict[str, torch.Tensor]], alone: dict[str, torch.Tensor]) -> None:
    for each in found:
        for name, values_ in alone.items():
            torch.testing.assert_close(each[name], values_, rtol=0, atol=1e-6, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("make", [lambda: tensor_parallel(2, 2), fully_sharded], ids=["tensor parallel", "FSDP"])
def test_two_processes_hold_one_model(make: Callable[[], Any], alone: dict[str, torch.Tensor]) -> None:
    def work(rank: int) -> dict[str, torch.Tensor]:
        model = make()
        torch.manual_seed(2 + rank)  # the second process draws as the first one
        return explained(language_model(model))

    check(values(work, 2), alone)


def test_two_copies_of_two_processes(alone: dict[str, torch.Tensor]) -> None:
    def work(rank: int) -> dict[str, torch.Tensor]:
        model = tensor_parallel(4, 2)
        torch.manual_seed(2 + rank)
        with llm_attr.parallel(num_processes=4, shards=2):
            return explained(language_model(model))

    check(values(work, 4), alone)


def test_rules_are_refused() -> None:
    def work(rank: int) -> None:
        model = tensor_parallel(2, 2)
        with pytest.raises(NoRule, match="no rule covers"):
            explain(language_model(model), FACTS, target=ANSWER, method="lrp")

    values(work, 2)


def test_an_error_of_a_process_that_holds_a_part_of_the_model() -> None:
    def work(rank: int) -> None:
        lm = language_model(tensor_parallel(2, 2))
        with pytest.raises(EmptyTarget):
            explain(lm, FACTS, target=ANSWER if rank else "")

        def broken(*_: Any) -> None:
            raise KeyboardInterrupt

        if rank == 1:
            lm.model.model.layers[1].register_forward_pre_hook(broken)
        explain(lm, FACTS, target=ANSWER)

    first, second = launch(work, 2)
    assert isinstance(second.error, KeyboardInterrupt)
    assert "Connection" in str(first.error)  # it waited inside the model
