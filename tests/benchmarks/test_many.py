"""A list of prompts against a loop over them.

Run: pytest tests/benchmarks -m benchmark -s
"""

from __future__ import annotations

import pytest

import llm_attr
from tests.benchmarks.jobs import CHATS, REPLY
from tests.benchmarks.measure import Side, compare, report

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("unit", ["sentence", "word"])
def test_chats(unit: str) -> None:
    lm = llm_attr.load_model("smollm2-135m")
    sides = [
        Side("explain(list)", lambda: llm_attr.explain(lm, CHATS, unit=unit, target=REPLY)),
        Side("a loop", lambda: [llm_attr.explain(lm, chat, unit=unit, target=REPLY) for chat in CHATS]),
    ]
    sides[1].run()
    compare(sides, 5, lm.model)
    print("\n" + report(f"{len(CHATS)} chats by {unit}", sides))
    for together, alone in zip(sides[0].result, sides[1].result, strict=True):
        assert (together.seq_attr - alone.seq_attr).abs().max() < 1e-4
