"""How far half precision ranks as fp32 does: `python -m tests.benchmarks.precision_table [METHOD ...] [--prompts 20]`.

For each method and precision the Spearman rank correlation of the words' attributions with those in fp32, the mean and
the lowest of the prompts; the largest difference relative to the largest attribution; and the most bytes that tensors
took beside the weights, for one prompt. Each answer is what SmolLM2-135M says in fp32, eight tokens.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import llm_attr
from llm_attr.llm.model.language_model import LanguageModel
from tests.zoo import quiet

PROMPTS = [
    "Aksel repairs violins and has a dog. What does Aksel repair?",
    "Mira lives in Odense and works as a baker. Where does Mira live?",
    "The blue train leaves at ten, the red one at nine. When does the blue train leave?",
    "Tickets cost four euros, children pay two. How much do children pay?",
    "Write one line about the sea in winter.",
    "The key lies under the green flower pot. Where is the key?",
    "Translate to French: the cat sleeps on the chair.",
    "Jonas is older than Eva, and Eva is older than Tim. Who is the youngest?",
    "The meeting moved from Monday to Thursday. On which day is the meeting?",
    "Name a fruit that is yellow and long.",
    "Water boils at 100 degrees and freezes at 0. At which temperature does water freeze?",
    "Classify the mood: I waited two hours and nobody came.",
    "The museum is closed on Tuesdays. May I visit it on Tuesday?",
    "Give a short title for a story about a lost dog.",
    "The capital of France is Paris, that of Spain is Madrid. What is the capital of Spain?",
    "Three apples and four pears are on the table. How many pears are there?",
    "Summarise: the shop opens at eight and closes at six.",
    "Lena bought a red coat and a blue hat. Which colour is the hat?",
    "Complete the sentence: the early bird catches the",
    "The recipe needs flour, eggs and milk. What does the recipe need?",
]

MIDDLE = "model.layers.14"
"""The layer of the methods for layers: half of the model's 30 layers come after it."""

METHODS: dict[str, dict[str, Any]] = {
    "feature_ablation": {},
    "input_x_gradient": {"token_rows": False},
    "integrated_gradients": {"n_steps": 8, "token_rows": False},
    "lrp": {"token_rows": False},
    "kernel_shap": {"n_samples": 40, "seed": 0},
    "gradient_shap": {"n_samples": 4, "token_rows": False},
    "saliency": {"token_rows": False},
    "deep_lift": {"token_rows": False},
    "discretized_integrated_gradients": {"n_steps": 4, "token_rows": False},
    "context_cite": {"n_samples": 40, "seed": 0},
    "shapley_value_sampling": {"n_samples": 2, "seed": 0},
    "lime": {"n_samples": 40, "seed": 0},
    "noise_tunnel": {"attribution_method": "input_x_gradient", "nt_samples": 4, "token_rows": False},
    "sequential_integrated_gradients": {"n_steps": 1, "token_rows": False},
    "layer_gradient_x_activation": {"layer": MIDDLE, "token_rows": False},
    "layer_integrated_gradients": {"layer": MIDDLE, "n_steps": 4, "token_rows": False},
    "layer_gradient_shap": {"layer": MIDDLE, "n_samples": 4, "token_rows": False},
    "layer_deep_lift": {"layer": MIDDLE, "token_rows": False},
    "layer_lrp": {"layer": MIDDLE, "token_rows": False},
}

WAYS = {
    "bf16 weights": (torch.bfloat16, "weights"),
    "bf16, sums in fp32": (torch.bfloat16, "bf16"),
    "fp16 weights": (torch.float16, "weights"),
    "fp16, sums in fp32": (torch.float16, "fp16"),
}


def main(chosen: list[str], prompts: list[str], only: str, asked: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with quiet():
        full = llm_attr.load_model("smollm2-135m")
    models = {torch.float32: full}
    for dtype in (torch.bfloat16, torch.float16):
        models[dtype] = LanguageModel(copy.deepcopy(full.model).to(dtype), full.tokenizer, full.name)
    answers = [answer(full, prompt) for prompt in prompts]
    print("| method | precision | mean | lowest | difference | MB |\n|---|---|---|---|---|---|", flush=True)
    for name in chosen or METHODS:
        options = METHODS[name] | asked | {"method": name}
        wanted = [run(full, options, *pair) for pair in zip(prompts, answers, strict=True)]
        most = peak(partial(run, full, options, prompts[0], answers[0]))
        print(f"| `{name}` | fp32 | | | | {most / 1e6:.0f} |", flush=True)
        for way, (dtype, precision) in WAYS.items():
            if way.startswith(only):
                found = [run(models[dtype], options, *pair, precision) for pair in zip(prompts, answers, strict=True)]
                most = peak(partial(run, models[dtype], options, prompts[0], answers[0], precision))
                print(f"| `{name}` | {way} | {compared(found, wanted)} | {most / 1e6:.0f} |", flush=True)


def compared(found: list[Tensor], wanted: list[Tensor]) -> str:
    """Mean and lowest rank correlation, and the mean of the largest differences."""
    ranks = [spearman(*pair) for pair in zip(found, wanted, strict=True)]
    apart = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True)]
    return f"{sum(ranks) / len(ranks):.3f} | {min(ranks):.3f} | {sum(apart) / len(apart):.1%}"


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def answer(lm: LanguageModel, prompt: str) -> list[int]:
    greedy = {"max_new_tokens": 8, "do_sample": False}
    found = llm_attr.explain(lm, chat(prompt), unit="message", gen_args=greedy)
    return list(found.output_ids or ())


def run(
    lm: LanguageModel, options: dict[str, Any], prompt: str, target: list[int], precision: str | None = None
) -> Tensor:
    found: Any = llm_attr.explain(lm, chat(prompt), target=target, precision=precision, **options)
    return found.seq_attr


def peak(work: Any) -> int:
    """The most bytes that tensors on the CPU took at a time, beyond those before."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    now = most = 0
    for size in _sizes(profile):
        now += size
        most = max(most, now)
    return most


def _sizes(profile: Any) -> Iterator[int]:
    records = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(records, key=lambda event: event.start_ns()):
        yield event.nbytes()


def spearman(found: Tensor, expected: Tensor) -> float:
    ranks = torch.stack([tensor.argsort().argsort().double() for tensor in (found, expected)])
    return float(torch.corrcoef(ranks)[0, 1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--only", default="", help="bf16 or fp16")
    parser.add_argument("--unit", default="word")
    parser.add_argument("--baseline", help="the token that replaces absent ones (default: a line break)")
    given = parser.parse_args()
    asked = {"unit": given.unit, **({"baseline": given.baseline} if given.baseline else {})}
    main(given.methods, PROMPTS[: given.prompts], given.only, asked)
