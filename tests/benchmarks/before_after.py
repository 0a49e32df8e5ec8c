"""Times and counters of two checkouts side by side: what a change costs.

Run, in the changed checkout, with its environment: python tests/benchmarks/before_after.py OTHER_CHECKOUT [NAME ...]

Each checkout has a process of its own; the two do one job after the other in turn, so that the swings of the machine
meet both. Times are processor time on one thread. Counters are calls, positions and head rows of the model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

HERE = Path(__file__).resolve().parents[2]
LEAST_SECONDS = 0.2
"""A round repeats a job until this much time has passed, so that short ones are measured too."""


def text_jobs(lm: Any) -> dict[str, Callable[[], Any]]:
    """Jobs of SmolLM2; each sets what it can, so that a changed default is not taken for a change of speed."""
    import torch

    import llm_attr
    from tests.benchmarks.jobs import CHATS, INTERESTS, KEEPER, LIGHTHOUSE, OURS, RAG12, REPLY, TMPL6, TMPL10, TOKEN54

    def game(method: str, job: Any, **options: Any) -> Callable[[], Any]:
        explainer = OURS.LLMAttribution(getattr(OURS, method)(lm.model), lm.tokenizer)
        inp = job.make_input(OURS, lm.tokenizer)

        def run() -> Any:
            torch.manual_seed(0)
            return explainer.attribute(inp, target=job.target, **options)

        return run

    def gradient(method: str, **options: Any) -> Callable[[], Any]:
        prompt = " ".join(LIGHTHOUSE[:3])
        return lambda: llm_attr.explain(lm, prompt, method=method, target=KEEPER, unit="token", **options)

    embedding = lm.model.get_input_embeddings()
    layer = OURS.LLMGradientAttribution(OURS.LayerIntegratedGradients(lm.model, embedding), lm.tokenizer)
    tokens = TOKEN54.make_input(OURS, lm.tokenizer)
    return {
        "ablation tmpl10": game("FeatureAblation", TMPL10),
        "ablation token54": game("FeatureAblation", TOKEN54),
        "ablation rag12": game("FeatureAblation", RAG12),
        "orders tmpl10 n=10": game("ShapleyValueSampling", TMPL10, n_samples=10),
        "kernel shap tmpl10 n=100": game("KernelShap", TMPL10, n_samples=100),
        "exact shapley tmpl6": game("ShapleyValues", TMPL6),
        "16 chats": lambda: llm_attr.explain(lm, CHATS, target=[REPLY] * len(CHATS)),
        "input x gradient whole": gradient("input_x_gradient", token_rows=False),
        "input x gradient tokens": gradient("input_x_gradient"),
        "deep lift whole": gradient("deep_lift", token_rows=False),
        "lrp whole": gradient("lrp", token_rows=False),
        "ig 8 whole": gradient("integrated_gradients", n_steps=8, token_rows=False),
        "layer ig 5 tokens": lambda: layer.attribute(tokens, target=INTERESTS, n_steps=5),
    }


def tensor_jobs() -> dict[str, Callable[[], Any]]:
    """Jobs of the general core."""
    import torch
    from torch import nn

    from llm_attr import attr
    from tests.benchmarks.test_feature_ablation import Cnn, patches

    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
    cnn = Cnn().eval()
    rows, row, images = torch.randn(64, 30), torch.randn(1, 30), torch.randn(4, 3, 32, 32)

    def job(method: str, model: nn.Module, x: torch.Tensor, *layer: nn.Module, **options: Any) -> Callable[[], Any]:
        def run() -> Any:
            torch.manual_seed(0)
            return getattr(attr, method)(model, *layer).attribute(x, target=1, **options)

        return run

    def smoothed() -> Any:
        torch.manual_seed(0)
        return attr.NoiseTunnel(attr.Saliency(mlp)).attribute(rows, target=1, nt_samples=10)

    return {
        "FeatureAblation mlp 64": job("FeatureAblation", mlp, rows),
        "FeatureAblation mlp 1": job("FeatureAblation", mlp, row),
        "FeatureAblation cnn": job("FeatureAblation", cnn, images, feature_mask=patches(32, 8)),
        "Occlusion cnn": job("Occlusion", cnn, images, sliding_window_shapes=(3, 8, 8), strides=(3, 8, 8)),
        "ShapleyValueSampling mlp": job("ShapleyValueSampling", mlp, rows, n_samples=25),
        "KernelShap mlp": job("KernelShap", mlp, rows[:16], n_samples=200),
        "Lime mlp": job("Lime", mlp, rows[:4], n_samples=200),
        "IntegratedGradients mlp": job("IntegratedGradients", mlp, rows),
        "IntegratedGradients cnn": job("IntegratedGradients", cnn, images),
        "GradientShap mlp": job("GradientShap", mlp, rows, baselines=torch.zeros(5, 30)),
        "NoiseTunnel mlp": smoothed,
        "Saliency mlp": job("Saliency", mlp, rows),
        "LayerConductance mlp": job("LayerConductance", mlp, rows, mlp[0]),
        "LayerIntegratedGradients cnn": job("LayerIntegratedGradients", cnn, images, cnn[3]),
        "LayerGradCam cnn": job("LayerGradCam", cnn, images, cnn[6]),
        "DeepLift mlp": job("DeepLift", mlp, rows),
        "DeepLift cnn": job("DeepLift", cnn, images),
        "LRP mlp": job("LRP", mlp, rows),
    }


def serve() -> None:
    """Print the names of the jobs; then do each job whose name comes in and print its time and its counters."""
    import torch

    import llm_attr
    from tests.benchmarks.measure import Side, counting

    answers, sys.stdout = sys.stdout, sys.stderr  # what the jobs print goes elsewhere
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lm = llm_attr.load_model("smollm2-135m")
    jobs = {**text_jobs(lm), **tensor_jobs()}
    print(json.dumps([llm_attr.__file__, list(jobs)]), file=answers, flush=True)
    for line in sys.stdin:
        run, times, start = jobs[json.loads(line)], 0, process_time()
        while not times or process_time() - start < LEAST_SECONDS:
            run()
            times += 1
        seconds, side = (process_time() - start) / times, Side("", run)
        with counting(lm.model, side):
            run()
        print(json.dumps([seconds, side.calls, side.positions, side.head_rows]), file=answers, flush=True)


class Checkout:
    """A process that does jobs with the library of one checkout."""

    def __init__(self, folder: Path) -> None:
        environment = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        file, self.names = self._answer()
        if not Path(file).is_relative_to(folder):
            raise SystemExit(f"{folder} was asked for and {file} was imported")

    def _answer(self) -> list[Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SystemExit(f"the process ended with exit code {self.process.wait()}")
        return json.loads(line)

    def do(self, name: str) -> list[Any]:
        """Return seconds, calls, positions and head rows of one job."""
        print(json.dumps(name), file=self.process.stdin, flush=True)
        return self._answer()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?", help="the checkout before the change")
    parser.add_argument("names", nargs="*", help="parts of the names of the jobs (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    if given.other is None:
        parser.error("which checkout is this one compared with?")
    before, after = Checkout(given.other.resolve()), Checkout(HERE)
    print(f"{'':28}  before ms   after ms   ratio  calls, positions, head rows")
    for name in after.names:
        if given.names and not any(part in name for part in given.names):
            continue
        for side in (before, after):
            side.do(name)  # the first run pays for what is then remembered
        rounds = [(before.do(name), after.do(name)) for _ in range(given.rounds)]
        old, new = (median(row[side][0] for row in rounds) * 1e3 for side in (0, 1))
        ratio = median(two[0] / one[0] for one, two in rounds)
        counters = [side[1:] for side in rounds[-1]]
        shown = f"{counters[0]}" if counters[0] == counters[1] else f"{counters[0]} -> {counters[1]}"
        print(f"{name:28} {old:10.1f} {new:10.1f}  {ratio:6.3f}  {shown if any(counters[1]) else ''}", flush=True)


if __name__ == "__main__":
    main()
