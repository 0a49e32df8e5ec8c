"""Programs started by torchrun, on one and on two nodes, and by the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch

from llm_attr import LanguageModel, explain
from tests.parallel.processes import free_port, needs_gloo
from tests.zoo import tiny_model, tokenizer_of

pytestmark = [needs_gloo, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
FACTS = "Aksel repairs violins. Berit paints boats. Carl sings. What does Aksel do?"
METHODS = {
    "feature_ablation": {},
    "kernel_shap": {"n_samples": 30, "unit": "word"},
    "integrated_gradients": {"n_steps": 7},
}

SCRIPT = """
import json, os, sys
import torch
from llm_attr import explain, load_model

torch.set_num_threads(1)
lm = load_model(sys.argv[1])
torch.manual_seed(3 + int(os.environ["RANK"]))
found = {
    name: explain(lm, sys.argv[2], method=name, target=" He repairs.", parallel=True, **options).seq_attr.tolist()
    for name, options in json.loads(sys.argv[3]).items()
}
with open(f"{sys.argv[4]}/{os.environ['RANK']}.json", "w") as file:
    json.dump(found, file)
"""

DYING = """
import os, signal
import llm_attr

with llm_attr.parallel() as team:
    if team.rank == 1:
        raise ValueError("of the second process")
    team.exchange("work", None)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").double().save_pretrained(folder)
    tokenizer_of("byte_bos").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, list[float]]:
    lm = LanguageModel(tiny_model("llama").double(), tokenizer_of("byte_bos"))
    torch.manual_seed(3)
    return {
        name: explain(lm, FACTS, method=name, target=" He repairs.", **options).seq_attr.tolist()
        for name, options in METHODS.items()
    }


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun(nodes: int, folder: Path, alone: dict[str, list[float]], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    work = [str(script), str(folder), FACTS, json.dumps(METHODS), str(tmp_path)]
    port = str(free_port())
    where = ["--nnodes", str(nodes), "--nproc-per-node", str(2 // nodes), "--master-addr", "127.0.0.1"]
    started = [torchrun(*where, "--master-port", port, "--node-rank", str(node), *work) for node in range(nodes)]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, expected in alone.items():
            assert found[name] == pytest.approx(expected, abs=1e-6), name


def test_a_process_that_fails_ends_the_program(tmp_path: Path) -> None:
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    process = torchrun("--standalone", "--nproc-per-node", "3", str(script))
    start = monotonic()
    _, errors = process.communicate(timeout=240)
    assert process.returncode != 0
    assert errors.count("ValueError: of the second process") >= 2, errors
    assert monotonic() - start < 200


def test_the_command_line(folder: Path, alone: dict[str, list[float]], tmp_path: Path) -> None:
    prompt, numbers = tmp_path / "prompt.txt", tmp_path / "result.json"
    prompt.write_text(FACTS)
    command = [sys.executable, "-m", "llm_attr.cli", "explain", "--prompt-file", str(prompt), "--model", str(folder)]
    done = subprocess.run(
        [*command, "--target", " He repairs.", "--num-processes", "2", "--json", str(numbers)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes share the work" in done.stderr
    assert done.stdout.count("Strongest units") == 1
    result = json.loads(numbers.read_text())
    assert len(result["provenance"]["processes"]) == 2
    refused = subprocess.run(
        [*command, "--target", "", "--num-processes", "2"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert refused.stderr.count("error: the target '' holds no token") == 1


def test_ctrl_c_ends_the_command(folder: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(FACTS)
    command = [sys.executable, "-m", "llm_attr.cli", "explain", "--prompt-file", str(prompt), "--model", str(folder)]
    started = subprocess.Popen(
        [*command, "--num-processes", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert started.stderr is not None
    assert "2 processes" in started.stderr.readline()
    sleep(2)
    os.killpg(started.pid, signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "Traceback" not in errors
