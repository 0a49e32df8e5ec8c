"""Every way in which a Hugging Face model comes: explained as it is, and left as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, cpu_offload, disk_offload, dispatch_model
from accelerate.state import AcceleratorState
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, pipeline

import llm_attr
from llm_attr import LanguageModel, Prompt
from llm_attr.attr import FeatureAblation, LLMAttribution
from llm_attr.llm.model.language_model import as_language_model
from tests.reference.absence import masked_log_probs, owners
from tests.reference.scoring import answer_log_probs, leave_one_out
from tests.zoo import need_attention_in, quiet, tiny_model, tokenizer_of

TEXT = "Dave lives in Palm Coast. He is a lawyer. What does he like?"
SENTENCES = ["Dave lives in Palm Coast.", "He is a lawyer.", "What does he like?"]
TARGET = " He likes fishing."
TOLERANCE = 1e-3


def tokenizer() -> Any:
    return tokenizer_of("byte_bos")


def expected(model: Any, absence: str = "delete", tokens: Any = None) -> Tensor:
    """`(1 + answer tokens, sentences)`: attributions by plain scoring with the model's own forward."""
    tokens = tokens or tokenizer()
    answer = tokens.encode(TARGET, add_special_tokens=False)
    if absence == "mask":
        spans = [(TEXT.index(sentence), TEXT.index(sentence) + len(sentence)) for sentence in SENTENCES]
        ids, owner = owners(tokens, TEXT, spans, special_tokens=True)
        rows = [[of != absent for of in owner] for absent in (None, 0, 1, 2)]
        whole, *without = [masked_log_probs(model, ids, row, answer) for row in rows]
    else:
        texts = [TEXT, *(" ".join(s for s in SENTENCES if s != absent) for absent in SENTENCES)]
        whole, *without = [answer_log_probs(model, tokens.encode(text), answer) for text in texts]
    return leave_one_out(whole, without)


def found(model: Any, absence: Any = "delete", **options: Any) -> Tensor:
    result = llm_attr.explain(model, Prompt(TEXT, absence=absence), target=TARGET, **options)
    assert result.token_attr is not None
    return torch.cat([result.seq_attr[None], result.token_attr])


def seen(model: Any) -> dict[str, Any]:
    """What a caller could see changed, without loading what is offloaded."""
    return {
        "weights": {
            name: (id(value), value.data_ptr(), value._version, value.dtype) if not value.is_meta else "meta"
            for name, value in [*model.named_parameters(), *model.named_buffers()]
        },
        "devices": {name: value.device for name, value in model.named_parameters()},
        "gradients": {name: (value.requires_grad, value.grad is None) for name, value in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: [list(getattr(module, kind)) for kind in sorted(vars(module)) if kind.endswith("hooks")]
            for name, module in model.named_modules()
        },
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "forwards": {
            name: (id(vars(module).get("forward")), id(vars(module).get("_hf_hook")))
            for name, module in model.named_modules()
        },
        "map": dict(getattr(model, "hf_device_map", None) or {}),
        "config": model.config.to_dict(),
        "class": type(model),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
    }


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Unchanged and unmoved; what accelerate and PEFT themselves leave behind at a first call is there before."""
    ids = torch.tensor([[3, 4]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT's own about the positions that it itself passes on
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, pad_token_id=1)
    before = seen(model)
    yield
    after = seen(model)
    assert [key for key in before if before[key] != after[key]] == []


def with_adapter(config: Any, family: str = "llama") -> Any:
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that has gone out of use
        torch.manual_seed(3)
        model = get_peft_model(tiny_model(family), config).eval()
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                torch.nn.init.normal_(weight, 1.0 if "ia3" in name else 0.0, 0.3)
    return model


MODULES = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
LEARNED = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
ADAPTERS: dict[str, Callable[[], Any]] = {
    "lora": lambda: LoraConfig(**MODULES, init_lora_weights=False),
    "ia3": lambda: IA3Config(**MODULES, feedforward_modules=[], init_ia3_weights=False),
    "prompt tuning": lambda: PromptTuningConfig(**LEARNED),
    "p-tuning": lambda: PromptEncoderConfig(**LEARNED, encoder_hidden_size=8),
    "prefix tuning": lambda: PrefixTuningConfig(**LEARNED),
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("absence", ["delete", "mask"])
@pytest.mark.parametrize("cached", [True, False])
def test_adapters(adapter: str, absence: str, cached: bool) -> None:
    model = with_adapter(ADAPTERS[adapter]())
    with untouched(model):
        attributions = found(model, absence, tokenizer=tokenizer(), use_cached_outputs=cached)
    assert (attributions - expected(model, absence)).abs().max() < TOLERANCE
    assert (attributions - expected(tiny_model("llama"), absence)).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "opt"])
@pytest.mark.parametrize("absence", ["delete", "mask"])
def test_lora_on_other_models(family: str, absence: str) -> None:
    modules = ["c_attn"] if family == "gpt2" else ["q_proj"]
    config = LoraConfig(
        task_type="CAUSAL_LM", target_modules=modules, init_lora_weights=False, fan_in_fan_out=family == "gpt2"
    )
    model = with_adapter(config, family)
    with untouched(model):
        attributions = found(model, absence, tokenizer=tokenizer())
    assert (attributions - expected(model, absence)).abs().max() < TOLERANCE


def test_the_way_through_an_adapter() -> None:
    ways = {}
    for adapter in ADAPTERS:
        result = llm_attr.explain(with_adapter(ADAPTERS[adapter]()), TEXT, tokenizer=tokenizer(), target=TARGET)
        ways[adapter] = str(result.provenance["scoring"]).partition(" (")[0]
    assert ways == {"lora": "prefix tree", "ia3": "prefix tree"} | dict.fromkeys(
        ["prompt tuning", "p-tuning", "prefix tuning"], "whole sequences"
    )


def test_an_adapter_that_is_switched_off() -> None:
    model = with_adapter(ADAPTERS["lora"]())
    lm = LanguageModel(model, tokenizer())
    on = found(lm)
    with model.disable_adapter():
        off = found(lm)
    assert (off - expected(tiny_model("llama"))).abs().max() < TOLERANCE
    assert (found(lm) - on).abs().max() < TOLERANCE
    with model.disable_adapter():
        assert (found(lm) - off).abs().max() < TOLERANCE


def test_an_adapter_inside_transformers() -> None:
    model = tiny_model("llama")
    model.add_adapter(LoraConfig(**MODULES, init_lora_weights=False))
    model.eval()
    with untouched(model):
        attributions = found(model, tokenizer=tokenizer())
    assert (attributions - expected(model)).abs().max() < TOLERANCE


def test_an_adapter_with_the_method_itself() -> None:
    model = with_adapter(ADAPTERS["lora"]())
    wrapped = LLMAttribution(FeatureAblation(model), tokenizer())
    result = wrapped.attribute(Prompt(TEXT), target=TARGET)
    assert (result.seq_attr - expected(model)[0]).abs().max() < TOLERANCE


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_answers_by_itself(adapter: str) -> None:
    model = with_adapter(ADAPTERS[adapter]())
    with untouched(model):
        result = llm_attr.explain(
            model, TEXT, tokenizer=tokenizer(), gen_args={"max_new_tokens": 4, "do_sample": False}
        )
    scores = answer_log_probs(model, tokenizer().encode(TEXT), result.output_ids)
    assert (result.output_probs.log() - scores).abs().max() < TOLERANCE


@pytest.fixture
def pipe() -> Any:
    with quiet():
        return pipeline("text-generation", model=tiny_model("llama"), tokenizer=tokenizer())


@pytest.mark.parametrize("absence", ["delete", "mask"])
def test_a_pipeline(pipe: Any, absence: str) -> None:
    attributes = sorted(vars(pipe))
    with untouched(pipe.model):
        attributions = found(pipe, absence)
    assert (attributions - expected(pipe.model, absence)).abs().max() < TOLERANCE
    assert sorted(vars(pipe)) == attributes


def test_what_a_pipeline_generates(pipe: Any) -> None:
    options = {"max_new_tokens": 6, "do_sample": False}
    said = pipe(TEXT, return_full_text=False, **options)[0]["generated_text"]
    result = llm_attr.explain(pipe, TEXT, gen_args=options)
    assert result.output_text.strip() == said.strip()
    assert pipe(TEXT, return_full_text=False, **options)[0]["generated_text"] == said


def test_a_pipeline_keeps_its_parts(pipe: Any) -> None:
    lm = as_language_model(pipe)
    assert lm.model is pipe.model
    assert lm.tokenizer is pipe.tokenizer
    other = tokenizer_of("byte")
    assert as_language_model(pipe, other).tokenizer is other


@pytest.mark.filterwarnings("ignore:.*pack_vnni2")  # torch, under ATEN_CPU_CAPABILITY=default where there is AMX
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "bloom"])
@pytest.mark.parametrize("absence", ["delete", "mask"])
def test_half_precision(dtype: torch.dtype, family: str, absence: str) -> None:
    model = tiny_model(family).to(dtype)
    with untouched(model):
        attributions = found(model, absence, tokenizer=tokenizer())
    assert attributions.dtype == torch.float32
    close = 0.3 if dtype == torch.bfloat16 else 0.05
    assert (attributions[1:] - expected(model, absence)[1:]).abs().max() < close
    assert (attributions[1:] - expected(tiny_model(family), absence)[1:]).abs().max() < 2 * close


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_goes_by_prefix_tree(kernel: str, dtype: torch.dtype) -> None:
    need_attention_in(dtype)
    model = tiny_model("llama", kernel).to(dtype)
    result = llm_attr.explain(model, TEXT, tokenizer=tokenizer(), target=TARGET)
    assert result.provenance["scoring"] == "prefix tree (attention by explicit positions)"
    assert result.provenance["dtype"] == str(dtype).removeprefix("torch.")


@pytest.fixture
def accelerator() -> Iterator[Any]:
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.filterwarnings("ignore:.*pack_vnni2")  # torch, under ATEN_CPU_CAPABILITY=default where there is AMX
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("absence", ["delete", "mask"])
@pytest.mark.parametrize("cached", [True, False])
def test_autocast_by_accelerate(accelerator: Any, family: str, absence: str, cached: bool) -> None:
    model = accelerator.prepare_model(tiny_model(family), evaluation_mode=True)
    plain = expected(tiny_model(family), absence)
    with untouched(model):
        attributions = found(model, absence, tokenizer=tokenizer(), use_cached_outputs=cached)
    own = expected(model, absence)
    assert (attributions[1:] - own[1:]).abs().max() < 0.3
    assert (attributions - plain).abs().max() > 1e-3
    assert (attributions[1:] - plain[1:]).abs().max() < 0.6


@pytest.mark.filterwarnings("ignore:.*pack_vnni2")  # torch, under ATEN_CPU_CAPABILITY=default where there is AMX
def test_autocast_of_the_caller() -> None:
    model = tiny_model("llama")
    with torch.autocast("cpu", dtype=torch.bfloat16), untouched(model):
        attributions = found(model, tokenizer=tokenizer())
        own = expected(model)
    assert attributions.dtype == torch.float32
    assert (attributions[1:] - own[1:]).abs().max() < 0.3


@pytest.mark.real
def test_a_real_model_under_autocast(smollm: LanguageModel) -> None:
    """The precision of the computation, not of the weights, says what is rounding and what is not."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = llm_attr.explain(smollm, TEXT, target=TARGET)
        own = expected(smollm.model, tokens=smollm.tokenizer)
    assert result.provenance["scoring"] == "prefix tree (attention by explicit positions)"
    assert result.provenance["check_positions"] > 0
    assert (result.token_attr - own[1:]).abs().max() < 0.6
    again = llm_attr.explain(smollm, TEXT, target=TARGET)
    assert (again.seq_attr - expected(smollm.model, tokens=smollm.tokenizer)[0]).abs().max() < TOLERANCE


MAPS: dict[str, dict[str, str]] = {
    "some layers": {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.norm": "cpu", "lm_head": "cpu"},
    "embeddings and head": {"model.layers": "cpu", "model.norm": "cpu"},
    "everything": {},
}
PARTS = ["model.embed_tokens", *(f"model.layers.{number}" for number in range(3)), "model.norm", "lm_head"]


def on_disk(name: str) -> dict[str, str]:
    """A device map with everything on disk but for what the map of this name says."""
    known = MAPS[name]
    return {part: known.get(part, known.get(part.rpartition(".")[0], "disk")) for part in PARTS}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("absence", ["delete", "mask"])
def test_dispatched_with_parts_on_disk(name: str, absence: str, tmp_path: Path) -> None:
    places = on_disk(name) | {"model.rotary_emb": "cpu"}
    with quiet():
        model = dispatch_model(tiny_model("llama"), places, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    with untouched(model):
        attributions = found(model, absence, tokenizer=tokenizer())
    assert (attributions - expected(tiny_model("llama"), absence)).abs().max() < TOLERANCE
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == files
    assert model.hf_device_map == places
    assert_still_offloaded(model, [part for part, place in places.items() if place == "disk"])


def assert_still_offloaded(model: Any, parts: list[str]) -> None:
    weights = dict(model.named_parameters())
    offloaded = [name for name in weights if any(f"{name}.".startswith(f"{part}.") for part in parts)]
    assert offloaded
    assert {name for name, weight in weights.items() if weight.is_meta} == set(offloaded)


@pytest.mark.parametrize("name", ["some layers", "everything"])
def test_loaded_with_a_device_map(name: str, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    places = on_disk(name)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path / "model", device_map=places, offload_folder=str(tmp_path / "offloaded")
        )
    with untouched(model):
        attributions = found(model, tokenizer=tokenizer())
    assert (attributions - expected(tiny_model("llama"))).abs().max() < TOLERANCE
    assert_still_offloaded(model, [part for part, place in places.items() if place == "disk"])


@pytest.mark.parametrize(
    ("family", "absence"),
    [(family, absence) for family in ("llama", "gemma3") for absence in ("delete", "mask")] + [("mamba", "delete")],
)
def test_offloaded_to_main_memory(family: str, absence: str) -> None:
    with quiet():
        model = cpu_offload(tiny_model(family))
    with untouched(model):
        attributions = found(model, absence, tokenizer=tokenizer())
    assert (attributions - expected(tiny_model(family), absence)).abs().max() < TOLERANCE
    assert all(weight.is_meta for weight in model.parameters())


def test_offloaded_to_disk_as_a_whole(tmp_path: Path) -> None:
    with quiet():
        model = disk_offload(tiny_model("llama"), tmp_path, execution_device=torch.device("cpu"))
    with untouched(model):
        attributions = found(model, tokenizer=tokenizer())
        result = llm_attr.explain(
            model, TEXT, tokenizer=tokenizer(), gen_args={"max_new_tokens": 3, "do_sample": False}
        )
    assert (attributions - expected(tiny_model("llama"))).abs().max() < TOLERANCE
    assert all(weight.is_meta for weight in model.parameters())
    assert result.provenance["weights"] == "offloaded"
    plain = llm_attr.explain(
        tiny_model("llama"), TEXT, tokenizer=tokenizer(), gen_args={"max_new_tokens": 3, "do_sample": False}
    )
    assert result.output_ids == plain.output_ids


def test_an_offloaded_model_that_raises_is_left_offloaded() -> None:
    with quiet():
        model = cpu_offload(tiny_model("llama"))
    with untouched(model):
        handle = model.register_forward_pre_hook(_fail, with_kwargs=True)
        with pytest.raises(ArithmeticError):
            found(model, tokenizer=tokenizer())
        handle.remove()
    assert all(weight.is_meta for weight in model.parameters())


def _fail(*_: Any) -> None:
    raise ArithmeticError("in the middle")


@pytest.mark.real
@pytest.mark.parametrize("absence", ["delete", "mask"])
def test_a_real_model_with_layers_on_disk(smollm: LanguageModel, absence: Any, tmp_path: Path) -> None:
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{number}": "disk" if number >= 22 else "cpu" for number in range(30)}
    with quiet():
        offloaded = llm_attr.load_model("smollm2-135m", device_map=places, offload_folder=str(tmp_path))
    with untouched(offloaded.model):
        attributions = found(offloaded, absence)
    assert (attributions - found(smollm, absence)).abs().max() < 1e-4
    assert_still_offloaded(offloaded.model, [part for part, place in places.items() if place == "disk"])
    assert offloaded.model.hf_device_map == places


@pytest.mark.real
def test_a_real_pipeline_and_adapter(smollm: LanguageModel) -> None:
    with quiet():
        pipe = pipeline("text-generation", model=smollm.model, tokenizer=smollm.tokenizer)
    assert torch.equal(found(pipe), found(smollm))
