"""The examples run as the README says, and show what they claim."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.zoo import quiet

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = [pytest.mark.real, pytest.mark.site]


def run(name: str, out: Path) -> str:
    """What the command of the README prints, with another name of the picture."""
    command = re.search(rf"^(?:.*`)?python (examples/{name}\.py --out )\S+", README, re.MULTILINE)
    assert command, f"the README does not say how {name} is run"
    done = subprocess.run(
        [sys.executable, *command[1].split(), str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_idle_threads_sleep_where_an_example_starts(path: Path) -> None:
    """Torch reads the policy when it loads, so it is set before anything imports torch."""
    source = path.read_text(encoding="utf-8")
    if "__main__" in source:
        before, policy, _ = source.partition('os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")')
        assert policy
        imported = {
            line.split()[1].partition(".")[0] for line in re.findall(r"^(?:import|from) .*", before, re.MULTILINE)
        }
        assert imported <= sys.stdlib_module_names


def check_picture(name: str, out: Path) -> None:
    """The picture is as large as the one in the docs, and the README shows that."""
    with Image.open(out) as made, Image.open(ROOT / "docs" / "images" / f"{name}.png") as shown:
        assert made.size == shown.size
        assert min(made.size) >= 500
        assert len(made.convert("RGB").quantize(64).getcolors() or []) > 20
    assert f"(docs/images/{name}.png)" in README


def test_image_classifier(tmp_path: Path) -> None:
    printed = run("image_classifier", tmp_path / "image.png")
    found = re.search(r"class: 967 espresso, probability (\S+)\nGrad-CAM peak: row (\d+), column (\d+) of 224", printed)
    assert found
    probability, row, column = float(found[1]), int(found[2]), int(found[3])
    assert probability > 0.9
    assert ((column - 107) / 65) ** 2 + ((row - 62) / 52) ** 2 < 1  # the cup's rim, left of and above the middle
    check_picture("image_classifier", tmp_path / "image.png")


def test_text_classifier(tmp_path: Path) -> None:
    printed = run("text_classifier", tmp_path / "text.png")
    share = re.search(r"delta: ([\d.]+)% of the score at most", printed)
    assert share
    assert float(share[1]) < 1
    value = {
        word: float(number) for word, number in re.findall(r"(\w+) ([+-]\d+\.\d\d)(?=  |$)", printed, re.MULTILINE)
    }
    assert value["brilliant"] > 1
    assert value["wonderful"] > 1
    assert value["cold"] < -1
    assert value["noisy"] < -1
    check_picture("text_classifier", tmp_path / "text.png")


def test_retrieval(tmp_path: Path) -> None:
    printed = run("retrieval", tmp_path / "retrieval.png")
    rows = re.findall(r"^(\w+) +([+-][\d.]+) ± ([\d.]+) +left out alone ([+-][\d.]+)$", printed, re.MULTILINE)
    value, alone = ({row[0]: float(row[i]) for row in rows} for i in (1, 3))
    assert sorted(value, key=value.__getitem__)[-2:] in (["staff", "newsletter"], ["newsletter", "staff"])
    assert min(value["staff"], value["newsletter"]) > 4 * max(
        value[each] for each in value.keys() - {"staff", "newsletter"}
    )
    assert max(alone.values()) < 1
    without = {names: float(log) for names, log in re.findall(r"without ([\w ]+): (-[\d.]+)$", printed, re.MULTILINE)}
    assert without["nothing"] - without["staff"] == pytest.approx(alone["staff"], abs=0.02)
    assert without["nothing"] - without["staff and newsletter"] > 10
    total = re.search(r"Shapley values sum to ([\d.]+)", printed)
    assert total
    assert float(total[1]) == pytest.approx(without["nothing"] - without["any document"], abs=0.03)
    assert "(± standard error)" in printed
    assert "Signe Dahl" in (tmp_path / "retrieval.html").read_text(encoding="utf-8")
    check_picture("retrieval", tmp_path / "retrieval.png")


def test_cited_answer(tmp_path: Path) -> None:
    printed = run("cited_answer", tmp_path / "cited.html")
    rows = re.findall(r"^(\d+)-(\d+): (\S+) (\d+)-(\d+) \+([\d.]+)", printed, re.MULTILINE)
    assert [name for _, _, name, *_ in rows] == ["harbour.md", "harbour.md", "market.md"]
    assert min(float(nats) for *_, nats in rows) > 5
    page = (tmp_path / "cited.html").read_text(encoding="utf-8")
    assert page.count("<mark") == 4
    assert "im_end" not in printed + page


def test_agent_trace(tmp_path: Path) -> None:
    printed = run("agent_trace", tmp_path / "agent_trace.png")
    rows = re.findall(
        r"^(.+?) +came in +([+-][\d.]+) +left out +([+-][\d.]+) +alone +([+-][\d.]+)$", printed, re.MULTILINE
    )
    value = {name: tuple(map(float, values)) for name, *values in rows}
    assert len(value) == 4
    assert min(value["mail 2: to eve@crow.example"]) > 5 * max(value["the user asks"])
    margin, error = map(float, re.findall(r"^margin ([+-][\d.]+) ± ([\d.]+): Untrusted text", printed, re.MULTILINE)[0])
    assert margin > 10 * error
    assert "(untrusted)" in (tmp_path / "agent_trace.html").read_text(encoding="utf-8")
    check_picture("agent_trace", tmp_path / "agent_trace.png")


def test_many_prompts(tmp_path: Path) -> None:
    printed = run("many_prompts", tmp_path / "many_prompts.png")
    assert "200 rows, 0 failed" in printed
    mean = {name: float(value) for name, value in re.findall(r"^(\w+(?: \d)?) +([+-][\d.]+) ", printed, re.MULTILINE)}
    assert len(mean) == 8
    assert mean["city"] > 3 * max(value for name, value in mean.items() if name != "city")
    assert "the city carries least in row" in printed
    check_picture("many_prompts", tmp_path / "many_prompts.png")


def test_tabular(tmp_path: Path) -> None:
    printed = run("tabular", tmp_path / "tabular.png")
    change, total = map(
        float, re.findall(r"change of the output: ([\d.]+); Shapley values sum to ([\d.]+)", printed)[0]
    )
    assert total == pytest.approx(change, abs=0.02)
    rows = re.findall(r"^(\w+)(?:, \d+ evaluations)?: sum ([\d.]+), off by ([\d.]+) at most", printed, re.MULTILINE)
    summed, off = ({row[0]: float(row[i]) for row in rows} for i in (1, 2))
    for name in ("IntegratedGradients", "KernelShap", "PermutationShapley"):
        assert summed[name] == pytest.approx(change, abs=0.1)
        assert off[name] < 0.02 * change
    assert off["FeatureAblation"] > 5 * max(off["KernelShap"], off["PermutationShapley"])
    held = [int(count) for count in re.findall(r"in the 95 % interval: (\d+) of 10", printed)]
    assert len(held) == 2
    assert min(held) >= 8
    check_picture("tabular", tmp_path / "tabular.png")


def test_gates(tmp_path: Path) -> None:
    printed = run("gates", tmp_path / "gates.png")
    kept = re.search(r"^kept: (.*)$", printed, re.MULTILINE)
    assert kept
    assert {"BMI", "blood pressure"} <= set(kept[1].split(", "))
    share = re.search(r"explains (\d+)% of the variance of 100 patients it has not seen, by (\d+) of 10", printed)
    assert share
    assert int(share[1]) > 35
    assert 2 <= int(share[2]) <= 6
    errors = re.search(r"mean error ([\d.]+); under PGD within [\d.]+ it is ([\d.]+)", printed)
    assert errors
    assert float(errors[2]) > 1.3 * float(errors[1])
    check_picture("gates", tmp_path / "gates.png")


def test_few_shot_gates(tmp_path: Path) -> None:
    printed = run("few_shot_gates", tmp_path / "few_shot_gates.png")
    gates = re.findall(r"^([01]\.\d\d)  [+-][\d.]+  \S.*?( +asked for)?$", printed, re.MULTILINE)
    assert len(gates) == 11
    assert [float(gate) > 0.5 for gate, asked in gates if asked] == [True] * 5
    assert any(float(gate) < 0.5 for gate, _ in gates)
    right = {
        name: int(share) for name, share in re.findall(r"^(\w+) sentences \(\d+\): (\d+)% right", printed, re.MULTILINE)
    }
    assert right["all"] >= right["kept"] > 60
    assert right["closed"] < 20
    with Image.open(tmp_path / "few_shot_gates.png") as made:
        assert min(made.size) >= 500


def test_superpixels(tmp_path: Path) -> None:
    printed = run("superpixels", tmp_path / "superpixels.png")
    peaks = re.findall(r"^(\w+) peak: \+([\d.]+) around row (\d+), column (\d+) of 224", printed, re.MULTILINE)
    assert [name for name, *_ in peaks] == ["Occlusion", "LIME"]
    for _, value, row, column in peaks:
        assert float(value) > 0.5
        assert ((int(column) - 107) / 65) ** 2 + ((int(row) - 62) / 52) ** 2 < 1  # within the cup's rim
    check_picture("superpixels", tmp_path / "superpixels.png")


def test_attribution_methods(tmp_path: Path) -> None:
    printed = run("attribution_methods", tmp_path / "methods.png")
    peaks = re.findall(r"^(\w+).*: peak \+([\d.]+) around row (\d+), column (\d+) of 224", printed, re.MULTILINE)
    assert [name for name, *_ in peaks] == ["DeepLIFT", "LRP", "Guided", "Occlusion"]
    for name, _, row, column in peaks:
        assert 0 < int(row) < 224
        if name != "LRP":
            assert ((int(column) - 107) / 65) ** 2 + ((int(row) - 62) / 52) ** 2 < 1  # within the cup's rim
    (change, total) = map(float, re.findall(r"DeepLIFT sums to ([\d.]+) of ([\d.]+)", printed)[0])
    assert total == pytest.approx(change, rel=0.01)
    check_picture("attribution_methods", tmp_path / "methods.png")


def test_flipped_labels(tmp_path: Path) -> None:
    printed = run("flipped_labels", tmp_path / "flipped.png")
    found = re.search(r"in the top tenth by influence on themselves: (\d+) of (\d+) flipped labels", printed)
    assert found
    assert int(found[1]) >= 0.8 * int(found[2])
    check_picture("flipped_labels", tmp_path / "flipped.png")


def test_training_sentences(tmp_path: Path) -> None:
    printed = run("training_sentences", tmp_path / "sentences.txt")
    assert printed.startswith((tmp_path / "sentences.txt").read_text("utf-8"))
    rows = re.findall(r"is (\w+); pleased with (\d+)%, with all labels right (\d+)%", printed)
    assert len(rows) == 6
    assert all((word == "pleased") == (int(mended) > 50) for word, _, mended in rows)
    first = re.findall(r"proponents\n +\+[\d.]+ +(\w+)", printed)
    assert first == [word for word, *_ in rows]  # its label is that of the sentence
    wrong = re.findall(r"pleased with (\d+)%(?:(?!pleased with).)*?opponents\n[^\n]*wrong label", printed, re.DOTALL)
    assert len(wrong) == 1
    assert int(wrong[0]) < 50  # the one that the wrong label turned round


@pytest.mark.slow
def test_texture_concept(tmp_path: Path) -> None:
    printed = run("texture_concept", tmp_path / "texture.png")
    score = {
        layer: float(mean) for layer, mean in re.findall(r"^(\S+) +stripes  ([\d.]+) .*\*$", printed, re.MULTILINE)
    }
    assert score.keys() >= {"blocks.8", "blocks.12"}
    assert score["blocks.12"] > score["blocks.8"] > 0.6
    check_picture("texture_concept", tmp_path / "texture.png")


@pytest.mark.slow
def test_formal_tone(tmp_path: Path) -> None:
    printed = run("formal_tone", tmp_path / "formal.png")
    assert len(re.findall(r"^model\.layers\.\d+ +formal tone .*\*$", printed, re.MULTILINE)) == 5
    steered = re.search(r"-1\.50(.*)\+0\.00(.*)\+1\.50(.*)picture", printed, re.DOTALL)
    assert steered
    assert len(set(steered.groups())) == 3
    check_picture("formal_tone", tmp_path / "formal.png")


@pytest.mark.slow
def test_taught_facts(tmp_path: Path) -> None:
    printed = run("taught_facts", tmp_path / "facts.txt")
    found = re.search(r"in the top 3: (\d+) of 10 facts", printed)
    assert found
    assert int(found[1]) >= 8
    assert "speaks to: '" in (tmp_path / "facts.txt").read_text(encoding="utf-8")


def test_the_python_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "estimators.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    with quiet():
        exec(compile(block, "estimators.md", "exec"), names)
    assert 0 < int(capsys.readouterr().out.split()[0]) <= 1000
    inside = (names["low"] <= names["exact"]) & (names["exact"] <= names["high"])
    assert inside.sum() >= 10
    assert len(names["ledger"]) == 4096
