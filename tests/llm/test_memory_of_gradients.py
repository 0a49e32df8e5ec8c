"""Gradients of a long prompt within a cap of memory in which all logits and activations at once do not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.slow]

SPARE = 3 << 29
"""Bytes beside the loaded model: 1.5 GB."""

SCRIPT = """
import gc, json, resource, sys
import psutil, torch
torch.set_num_threads(1)
import llm_attr
from llm_attr.attr import IntegratedGradients, LLMGradientAttribution, TextTokenInput
from llm_attr.core.memory import is_out_of_memory

steps, spare = int(sys.argv[1]), int(sys.argv[2])
lm = llm_attr.load_model("smollm2-135m")
gc.collect()
process = psutil.Process()
cap = process.memory_info().vms + spare
resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
tokens = lm.encode("The tower of Osmark was built by Ingrid in 1931, and Aksel paints it every summer. " * 90,
                   special_tokens=False)[:1500]
answer = lm.encode(" Ingrid built the tower and Aksel paints it." * 9, special_tokens=False)[:60]
embedded = lm.model.get_input_embeddings()(torch.tensor([tokens + answer])).detach().requires_grad_()
try:
    whole = lm.model(inputs_embeds=embedded).logits.log_softmax(-1)
    whole[0, torch.arange(len(answer)) + len(tokens) - 1, torch.tensor(answer)].sum().backward()
    at_once = True
except (RuntimeError, MemoryError) as error:
    assert is_out_of_memory(error), error
    at_once = False
whole = embedded = None
gc.collect()
inp = TextTokenInput(lm.decode(tokens), lm.tokenizer)
result = LLMGradientAttribution(IntegratedGradients(lm.model), lm.tokenizer).attribute(
    inp, target=answer, n_steps=steps, token_rows=False
)
print(json.dumps({
    "at_once": at_once, "backward": result.provenance["backward"],
    "tokens": len(result.seq_attr), "answer": len(result.output_ids), "finite": bool(result.seq_attr.isfinite().all()),
    "largest": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "cap": cap,
}))
"""


def capped(steps: int, spare: int = SPARE) -> dict[str, Any]:
    """What the script says of integrated gradients with so many steps."""
    command = [sys.executable, "-c", SCRIPT, str(steps), str(spare)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_integrated_gradients_of_a_long_prompt_fit_where_all_at_once_do_not() -> None:
    """The memory of one step is that of fifty."""
    found = capped(steps=1)
    assert not found["at_once"]
    assert found["backward"] == 1
    assert found["tokens"] >= 1490
    assert found["answer"] == 60
    assert found["finite"]
