"""Which slot of a template carries the answer, on average over 200 prompts? A table, a plot, and the weakest row.

Run: python examples/many_prompts.py --out many_prompts.png   (needs the extras data, demo and plot)

The results stay in the folder beside the picture: stopped in any way, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import random

import llm_attr

TEMPLATE = (
    "{name} is a {job} from {city}. This morning {name} packed {item} and took the {time} train. "
    "Question: In which city does {name} live? Answer: {name} lives in"
)
SLOTS = {
    "name": ("Aksel", "Signe", "Mads", "Freja", "Emil", "Clara", "Oscar", "Alma"),
    "job": ("baker", "doctor", "carpenter", "teacher", "painter"),
    "city": ("Berlin", "Paris", "Rome", "Madrid", "Vienna", "London", "Dublin", "Prague"),
    "item": ("a book", "an umbrella", "two sandwiches", "a camera"),
    "time": ("early", "late", "nine o'clock", "noon"),
}
ROWS = 200


def rows(count: int) -> list[dict[str, Any]]:
    """Rows with a value for each slot; the answer is the city."""
    draw = random.Random(0)
    chosen = [{slot: draw.choice(values) for slot, values in SLOTS.items()} for _ in range(count)]
    return [{"id": number, **row, "target": f" {row['city']}"} for number, row in enumerate(chosen)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("many_prompts.png"), help="the picture")
    out: Path = parser.parse_args().out
    run = llm_attr.explain_dataset(
        llm_attr.load_model("smollm2-135m"), rows(ROWS), out.with_suffix(""), template=TEMPLATE, show_progress=True
    )
    print(run)
    summary = run.summary("slot")
    print(summary)
    summary.plot()[0].savefig(out, dpi=140)
    gain = {number: result.seq_attr_dict for number, result in run.results()}
    weakest = min(gain, key=lambda number: gain[number][run.row(number)["city"]])
    print(f"the city carries least in row {weakest}: {run.row(weakest)}")
    run.result(weakest).show()
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
