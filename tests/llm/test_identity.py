"""What tells a model and a tokenizer from others, and what it does not ask of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import disk_offload
from tokenizers import decoders, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.utils import parametrizations

import llm_attr
from llm_attr import LanguageModel
from llm_attr.llm.model.fingerprint import (
    OFFLOADED,
    SHARDED,
    UNREADABLE,
    differences,
    identity,
    template_hash,
    tokenizer_hash,
    weights_hash,
)
from tests.zoo import byte_level, tiny, tiny_model, tokenizer_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama")


def test_hashes_of_weights(tmp_path: Path) -> None:
    model = tiny_model("llama")
    known = weights_hash(model)
    assert weights_hash(tiny_model("llama")) == known
    assert weights_hash(tiny_model("llama", seed=1)) != known
    assert weights_hash(tiny_model("llama").bfloat16()) != known
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    assert weights_hash(model) != known
    disk_offload(model, tmp_path)
    assert weights_hash(model) == OFFLOADED
    assert all(weight.is_meta for weight in model.parameters())


class Packed(Tensor):
    """A weight whose bytes torch cannot see."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.reshape:
            raise NotImplementedError(function)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_weights_that_cannot_be_read() -> None:
    model = nn.Module()
    model.register_buffer("w", torch.zeros(4).as_subclass(Packed))
    assert weights_hash(model) == UNREADABLE


class WithExtras(nn.Module):
    """Two names for one module, a buffer that is not saved, and a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.BatchNorm1d(3)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("left", torch.ones(2), persistent=False)

    def get_extra_state(self) -> Tensor:
        return torch.arange(3)

    def set_extra_state(self, state: Any) -> None:
        raise NotImplementedError


def by_state_dict(model: nn.Module) -> str:
    """The hash as results of earlier versions have it."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        if isinstance(weight, Tensor):
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
            flat = weight.detach().reshape(-1).view(torch.uint8)
            run = len(flat) // 8
            runs = [flat[start : start + 2048] for start in range(0, run * 8, run)] if len(flat) > 8 * 2048 else [flat]
            digest.update(torch.cat(runs).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    "model",
    [
        *(partial(tiny_model, family) for family in ("llama", "gpt2", "gemma3", "mamba")),
        WithExtras,
        lambda: parametrizations.weight_norm(nn.Linear(100, 50)),
        lambda: torch.compile(nn.Linear(2, 2), backend="eager"),
    ],
)
def test_weights_are_those_of_the_state_dict(model: Callable[[], Any]) -> None:
    made = model()
    assert weights_hash(made) == by_state_dict(made)


@pytest.mark.parametrize("method", ["feature_ablation", "input_x_gradient"])
def test_no_other_process_is_asked_for_weights(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("llama")
    known = weights_hash(lm.model)

    def gathered(*args: Any, **options: Any) -> Any:
        raise AssertionError("this waits for the other processes")

    for module in lm.model.modules():
        monkeypatch.setattr(module, "state_dict", gathered)
        module.register_state_dict_pre_hook(gathered)
    result = llm_attr.explain(lm, "Dave is old.", target=" Yes", method=method)
    assert result.provenance["weights"] == known


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def fsdp(model: nn.Sequential, whole: bool) -> nn.Module:
    """Divided as a whole and seen from within, or one layer of it."""
    wrapped = FullyShardedDataParallel(model if whole else model[0], device_id=CPU, use_orig_params=whole)
    if not whole:
        model[0] = wrapped
    return model


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`", "ignore:.*NO_SHARD.*:FutureWarning")
@pytest.mark.parametrize(
    "shard",
    [
        partial(fsdp, whole=True),
        partial(fsdp, whole=False),
        lambda model: fully_shard(model, mesh=init_device_mesh("cpu", (1,))),
        lambda model: parallelize_module(model, init_device_mesh("cpu", (1,)), {"0": ColwiseParallel()}),
    ],
    ids=["fsdp from within", "fsdp of a layer", "fully_shard", "tensor parallel"],
)
def test_of_a_shard_nothing_is_known(shard: Callable[[nn.Module], nn.Module]) -> None:
    assert weights_hash(shard(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))) == SHARDED


def test_of_a_weight_that_zero_divided_nothing_is_known() -> None:
    model = tiny_model("llama")
    weight = model.lm_head.weight
    weight.ds_tensor, weight.data = weight.data[:10], torch.empty(0)  # as DeepSpeed leaves it
    assert weights_hash(model) == SHARDED


def test_a_shard_is_no_other_model(lm: LanguageModel) -> None:
    known = identity(lm)
    assert differences(known | {"weights": SHARDED}, lm) == []
    assert differences(known | {"weights": "0"}, lm) == ["weights"]


def test_all_quantities_of_an_answer_are_told_of_by_one_look(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []
    monkeypatch.setattr("llm_attr.llm.model.fingerprint.weights_hash", lambda model: str(looks.append(model)))
    llm_attr.explain(lm, "Dave is old.", target=" Yes", method="saliency", scalar=["prob", "logit", "entropy"])
    assert len(looks) == 1


def test_hashes_of_tokenizers() -> None:
    tokenizer = byte_level()
    known = tokenizer_hash(tokenizer)
    assert tokenizer_hash(byte_level()) == known
    tokenizer("a b c", truncation=True, max_length=2, padding="max_length") if tokenizer.pad_token else tokenizer("a")
    assert tokenizer_hash(tokenizer) == known
    fresh = byte_level()
    fresh.backend_tokenizer.enable_truncation(3)
    assert tokenizer_hash(fresh) == known
    tokenizer.add_tokens(["new"])
    assert tokenizer_hash(tokenizer) != known
    assert len({tokenizer_hash(tokenizer_of(kind)) for kind in ("byte", "byte_bos", "slow", "unigram")}) == 4
    assert template_hash(tokenizer) is None
    tokenizer.chat_template = "a"
    first = template_hash(tokenizer)
    tokenizer.chat_template = {"default": "a", "tools": "b"}
    assert None is not first != template_hash(tokenizer)


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": normalizers.Lowercase()},
        {"normalizer": normalizers.NFC()},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": pre_tokenizers.Digits()},
        {"post_processor": processors.ByteLevel(trim_offsets=True)},
        {"decoder": decoders.Fuse()},
    ],
    ids=lambda part: repr(part),
)
def test_a_tokenizer_that_changes_its_parts_is_another_one(part: dict[str, Any]) -> None:
    tokenizer, fresh = byte_level(), byte_level()
    known = tokenizer_hash(tokenizer)
    for each in (tokenizer, fresh):
        for name, value in part.items():
            setattr(each.backend_tokenizer, name, value)
    assert known != tokenizer_hash(tokenizer) == tokenizer_hash(fresh)


class Blanks:
    """A part of a tokenizer that is written in Python."""

    def pre_tokenize(self, text: Any) -> None:
        text.split(lambda _, part: part.split(" ", "isolated"))


def test_a_tokenizer_with_a_part_written_in_python() -> None:
    tokenizer = byte_level()
    known = tokenizer_hash(tokenizer)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Blanks())
    assert len(tokenizer_hash(tokenizer)) == 64 != known
    assert tokenizer_hash(tokenizer) not in (known, tokenizer_hash(byte_level()))
