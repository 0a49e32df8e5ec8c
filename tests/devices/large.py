"""What an explanation costs on a GPU beside plain passes: `python -m tests.devices.gpu`, `--tiny` on a CPU.

Random weights of the configurations of a 1B and an 8B model, a prompt of 8,192 tokens in 64 sentences and an answer of
16 tokens. Nothing is fetched. Each part is left out when the time is up, and the table says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from llm_attr import LanguageModel, Prompt, explain, parallel
from llm_attr.core.memory import allocated_bytes, is_out_of_memory, peak_bytes, release, synchronize
from llm_attr.llm.prompt.interpretable import TokenMap
from tests.devices.table import full_precision
from tests.zoo import tokenizer_of

LIMIT_S = 440.0
"""Seconds after which no further part is started."""

ANSWER = " so it went on."
"""An answer of 15 tokens of one byte."""


@dataclass(frozen=True)
class Size:
    """A model of random weights and a prompt for it."""

    name: str
    config: dict[str, Any]
    sentences: int
    characters: int
    coalitions: int = 64
    points: int = 20
    together: int = 4


def _llama(**shape: Any) -> dict[str, Any]:
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    return {"max_position_embeddings": 16384, "num_key_value_heads": 8, **ends, **shape}


LARGE = [
    Size("1B", _llama(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        head_dim=64, tie_word_embeddings=True,
    ), 64, 128),
    Size("8B", _llama(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        head_dim=128,
    ), 64, 128),
]  # fmt: skip
TINY = [
    Size("tiny", _llama(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=8, head_dim=8,
    ), 8, 16, 12, 4),
]  # fmt: skip

METHODS: dict[str, dict[str, Any]] = {
    "feature_ablation": {},
    "kernel_shap": {"n_samples": 24, "seed": 0},
    "shapley_value_sampling": {"n_samples": 2, "seed": 0},
    "permutation_shapley": {"n_samples": 2},
    "banzhaf": {"n_samples": 16, "seed": 0},
    "saliency": {"token_rows": False},
    "input_x_gradient": {"token_rows": False},
    "integrated_gradients": {"n_steps": 8, "token_rows": False},
    "deep_lift": {"token_rows": False},
    "lrp": {"token_rows": False},
}
"""Ten methods whose numbers are compared with those of the CPU in fp32."""

LEAST = {"fp32": 0.999, "bf16": 0.9, "fp16": 0.98}
"""The cosine to the CPU's attributions that counts as right."""


@dataclass
class Report:
    """Rows of the one table, and how much time is left."""

    device: torch.device
    started: float = field(default_factory=perf_counter)
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    failed: bool = False

    def add(self, part: str, what: str, seconds: str = "", memory: str = "") -> None:
        self.rows.append((part, what, seconds, memory))
        print(" | ".join(self.rows[-1]), file=sys.stderr, flush=True)

    @property
    def is_over(self) -> bool:
        return perf_counter() - self.started > LIMIT_S

    def measured(self, part: str, what: str, work: Callable[[], Any]) -> Any:
        """Runs a part and adds its time and the memory beside what was allocated before."""
        if self.is_over:
            self.add(part, what, "left out: time")
            return None
        _forget_peak(self.device)
        before, start = allocated_bytes(self.device), perf_counter()
        try:
            found = work()
            synchronize(self.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            release(self.device)
            self.add(part, what, "out of memory")
            return None
        peak = peak_bytes(self.device)
        memory = "" if before is None or peak is None else f"{(peak - before) / 1e9:.2f} GB"
        self.add(part, what, f"{perf_counter() - start:.2f} s", memory)
        return found

    def table(self) -> str:
        head = [("part", "what", "time", "memory"), ("---",) * 4]
        return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *self.rows])


def _forget_peak(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)


def model_of(size: Size, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """Random weights, made where they are used."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), torch.random.fork_rng([], device_type="cuda"):
            torch.manual_seed(0)
            model = LlamaForCausalLM(LlamaConfig(**size.config)).eval()
    finally:
        torch.set_default_dtype(before)
    return LanguageModel(model, tokenizer_of("byte_bos"), size.name)


def prompt_of(size: Size) -> Prompt:
    words = ["the", "river", "ran", "down", "to", "the", "sea", "and", "then"]

    def sentence(number: int) -> str:
        text = f"Part {number} " + " ".join(words[(number + place) % len(words)] for place in range(size.characters))
        return text[: size.characters - 2].rstrip() + "."

    return Prompt(" ".join(map(sentence, range(size.sentences))), unit="sentence")


def correctness(report: Report, size: Size) -> None:
    """Ten methods in three precisions against fp32 on the CPU, on few sentences."""
    short = Size("short", TINY[0].config, 6, 24)
    reference = model_of(short, torch.device("cpu"), torch.float32)
    wanted = {name: attributed(reference, short, name, options) for name, options in METHODS.items()}
    for precision in LEAST:
        lm = model_of(short, torch.device("cpu"), torch.float32)
        lm.model.to(report.device)
        nearest: dict[str, float] = {}
        for name, options in METHODS.items():
            found = attributed(lm, short, name, options | {"precision": precision})
            nearest[name] = float(torch.cosine_similarity(found.double(), wanted[name].double(), 0))
        wrong = {name: value for name, value in nearest.items() if not value >= LEAST[precision]}
        report.failed |= bool(wrong)
        said = ", ".join(f"{name} {value:.3f}" for name, value in wrong.items())
        report.add("correct", f"{len(METHODS)} methods, {precision}", said or f"ok, cosine {min(nearest.values()):.4f}")


def attributed(lm: LanguageModel, size: Size, name: str, options: dict[str, Any]) -> Tensor:
    result: Any = explain(lm, prompt_of(size), target=ANSWER, method=name, **options)
    return result.seq_attr


def costs(report: Report, size: Size, dtype: torch.dtype) -> None:
    """Leave-one-out, KernelSHAP, integrated gradients and LRP, each beside plain passes."""
    lm, inp = model_of(size, report.device, dtype), prompt_of(size)
    placed = inp.bind(lm).placed(lm)
    answer = lm.encode(ANSWER, special_tokens=False)
    part = f"{size.name}, {len(placed.ids):,} tokens"
    plain = Plain(lm, placed, answer)
    report.measured(part, "one forward pass, plain", lambda: plain.forward(1))
    report.measured(part, "the same again", lambda: plain.forward(1))
    calls = size.sentences + 1
    report.measured(part, f"leave-one-out, {calls} plain passes", lambda: plain.variants(calls, size.together))
    ours: list[tuple[str, str, dict[str, Any]]] = [
        ("leave-one-out", "feature_ablation", {}),
        (f"KernelSHAP {size.coalitions}", "kernel_shap", {"n_samples": size.coalitions, "seed": 0}),
    ]
    gradients: list[tuple[str, str, dict[str, Any]]] = [
        (f"IG {size.points}", "integrated_gradients", {"n_steps": size.points, "token_rows": False}),
        ("LRP", "lrp", {"token_rows": False}),
    ]
    for label, name, options in ours:
        report.measured(part, f"{label}, llm_attr", lambda n=name, o=options: _run(lm, inp, n, o))
    report.measured(
        part, f"KernelSHAP, {size.coalitions} plain passes", lambda: plain.variants(size.coalitions, size.together)
    )
    report.measured(part, f"{size.points} plain passes with gradients", lambda: plain.gradients(size.points))
    for label, name, options in gradients:
        report.measured(part, f"{label}, llm_attr", lambda n=name, o=options: _run(lm, inp, n, o))
    report.measured(part, "one plain pass with gradients", lambda: plain.gradients(1))


def _run(lm: LanguageModel, inp: Prompt, name: str, options: dict[str, Any]) -> Any:
    return explain(lm, inp, target=ANSWER, method=name, **options)


@dataclass(frozen=True)
class Plain:
    """What a user would write: whole sequences in batches, logits at the answer alone."""

    lm: LanguageModel
    placed: TokenMap
    answer: list[int]

    def forward(self, rows: int) -> Tensor:
        with torch.no_grad():
            return self._scores(self.ids(rows))

    def variants(self, count: int, together: int) -> None:
        for start in range(0, count, together):
            self.forward(min(together, count - start))

    def gradients(self, count: int) -> None:
        for _ in range(count):
            embedded = self.lm.model.get_input_embeddings()(self.ids(1)).detach().requires_grad_()
            kept = len(self.answer)
            logits = self.lm.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=kept).logits
            torch.autograd.grad(logits.float().log_softmax(-1)[..., 0].sum(), embedded)

    def ids(self, rows: int) -> Tensor:
        ids = [*self.placed.ids, *self.answer[:-1]]
        return torch.tensor([ids], device=self.lm.device).expand(rows, -1).contiguous()

    def _scores(self, ids: Tensor) -> Tensor:
        logits = self.lm.model(ids, use_cache=False, logits_to_keep=len(self.answer)).logits
        return logits.float().log_softmax(-1)[..., 0].sum(-1)


def ranks(report: Report, tiny: bool) -> None:
    """Two processes share leave-one-out and integrated gradients and get what one gets."""
    count = torch.accelerator.device_count() if report.device.type != "cpu" else 0
    if not tiny and count < 2:
        report.add("two ranks", "left out", f"{count} GPU")
        return
    if report.is_over:
        report.add("two ranks", "left out", "time")
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    more = ["--tiny"] if tiny else []
    start, where = perf_counter(), os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.devices.large", *more], capture_output=True, text=True, env=where, timeout=120,
        check=False,
    )  # fmt: skip
    report.failed |= done.returncode != 0
    said = "ok" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]
    report.add("two ranks", "leave-one-out and IG as in one process", f"{said}, {perf_counter() - start:.0f} s")


def one_rank(tiny: bool) -> None:
    """What each of the two processes does.

    Raises:
        AssertionError: the processes together come to something else than one alone.
    """
    rank = int(os.environ["LOCAL_RANK"])
    accelerated = torch.accelerator.is_available() and not tiny
    device = torch.device("cpu")
    if accelerated:
        torch.accelerator.set_device_index(rank)
        device = torch.device(torch.accelerator.current_accelerator().type, rank)  # type: ignore[union-attr]
    size = Size("short", TINY[0].config, 6, 24)
    lm = model_of(size, torch.device("cpu"), torch.float32)
    lm.model.to(device)
    for name, options in (("feature_ablation", {}), ("integrated_gradients", METHODS["integrated_gradients"])):
        alone = attributed(lm, size, name, options)
        with parallel(num_processes=2):
            shared = attributed(lm, size, name, options)
        torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


def check(tiny: bool) -> Report:
    """All parts, on the accelerator or, if `tiny`, on a CPU."""
    kind = None if tiny or not torch.accelerator.is_available() else torch.accelerator.current_accelerator()
    device = torch.device("cpu") if kind is None else torch.device(kind.type, 0)
    report = Report(device)
    report.add("machine", _name(device), f"torch {torch.__version__}")
    with warnings.catch_warnings(), full_precision():
        warnings.simplefilter("ignore")
        correctness(report, TINY[0])
        ranks(report, tiny)
        for size in TINY if tiny else LARGE:
            costs(report, size, torch.float32 if tiny else torch.bfloat16)
            release(device)
    report.add("all", "", f"{perf_counter() - report.started:.0f} s")
    return report


def _name(device: torch.device) -> str:
    if device.type == "cpu":
        return "CPU"
    return str(torch.get_device_module(device).get_device_name(device))


if __name__ == "__main__":
    one_rank("--tiny" in sys.argv)
