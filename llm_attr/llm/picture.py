"""What pictures of an explanation are drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_attr.llm.scalar import UNITS
from llm_attr.viz.view import AttributionView

if TYPE_CHECKING:
    from llm_attr.llm.result import LLMAttributionResult

_TOLD = {"model", "dtype", "scoring", "variants", "passes", "positions", "empty_prompt"}


def view(result: LLMAttributionResult) -> AttributionView:
    """The texts and numbers of a result, and notes on how it was made."""
    method = str(result.provenance.get("method", "attribution")).replace("_", " ")
    return AttributionView(
        title=f"{method} of {result.output_text.strip()!r}",
        units=tuple(result.input_tokens),
        unit_values=tuple(result.seq_attr.tolist()),
        output_tokens=tuple(result.output_tokens),
        output_probs=None if result.output_probs is None else tuple(result.output_probs.tolist()),
        token_values=None if result.token_attr is None else tuple(map(tuple, result.token_attr.tolist())),
        value_name=_unit(result),
        context=None if result.context is None else tuple(result.context),
        notes=_notes(result),
        groups=result.groups,
        unit_errors=None if result.stderr is None else tuple(result.stderr.tolist()),
    )


def _unit(result: LLMAttributionResult) -> str:
    """What the numbers are."""
    found = str(result.provenance.get("attr_target", "log_prob"))
    return f"value of {result.provenance.get('function')}" if found == "callable" else UNITS.get(found, found)


def _notes(result: LLMAttributionResult) -> tuple[tuple[str, str], ...]:
    found = result.provenance
    if not found.keys() >= _TOLD:
        return tuple((name.replace("_", " "), str(value)) for name, value in found.items())
    cost = f"{found['variants']} variants in {found['passes']} passes, {found['positions']} token positions"
    if found.get("prompts", 1) > 1:
        cost += f", for {found['prompts']} prompts together"
    notes = [("model", f"{found['model']}, {found['dtype']}"), ("scored by", str(found["scoring"])), ("cost", cost)]
    if found["empty_prompt"]:
        notes.append(("empty prompt", f"scored after {found['empty_prompt']}"))
    if "foil" in found:
        notes.append(("foil", str(found["foil"])))
    if result.region:
        notes.append(("part", f"tokens {result.region[0]} to {result.region[1] - 1} of the answer"))
    return tuple(notes)
