"""What pictures of an explanation are drawn from."""

from __future__ import annotations

from llm_attr.errors import InvalidType, UnknownKeyword, UnknownName, UnsupportedMethod
from llm_attr.llm.results.completeness import warning
from llm_attr.llm.results.data import ResultData
from llm_attr.llm.target.scalar import UNITS
from llm_attr.viz.text.levels import Levels
from llm_attr.viz.text.view import AttributionView

_TOLD = {"model", "dtype", "scoring", "variants", "passes", "positions", "empty_prompt"}
_TOLD_OF_GRADIENTS = {"model", "dtype", "baseline", "passes", "positions", "backward", "forward_mode", "per_input"}


def view(result: ResultData) -> AttributionView:
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
        error_name="bootstrap error" if result.provenance.get("errors") == "bootstrap" else "standard error",
        unit_name=str(result.provenance.get("unit", "unit")),
        interactions=_pairs(result),
        warnings=tuple(said for said in (warning(result.provenance), _template(result)) if said),
    )


def _template(result: ResultData) -> str | None:
    """What the chat template did to the messages, if it did not show all as they are."""
    changed = result.provenance.get("template_changes")
    return f"The chat template does not show all messages as they are: {'; '.join(changed)}." if changed else None


def levels(result: ResultData, *others: ResultData) -> Levels:
    """The results of one text, explained by several units, as levels; see `Levels.of`.

    Raises:
        InvalidType: a level is no result.
    """
    for other in others:
        if not isinstance(other, ResultData):
            raise InvalidType(f"levels must be LLMAttributionResults; given {type(other).__name__}")
    return Levels.of(*(view(each) for each in (result, *others)))


def _pairs(result: ResultData) -> tuple[tuple[float, ...], ...] | None:
    """Those that can be found anew: a stored result may lack what its estimator was made with."""
    try:
        found = None if result.table is None else result.table.interactions()
    except (UnknownKeyword, UnknownName, UnsupportedMethod):
        return None
    return None if found is None else tuple(map(tuple, found.values[0].tolist()))


def _unit(result: ResultData) -> str:
    """What the numbers are."""
    found = str(result.provenance.get("attr_target", "log_prob"))
    unit = f"value of {result.provenance.get('function')}" if found == "callable" else UNITS.get(found, found)
    return f"{unit}, per unit of the activations" if result.provenance.get("per_input") else unit


def _notes(result: ResultData) -> tuple[tuple[str, str], ...]:
    found = result.provenance
    if found.keys() >= _TOLD_OF_GRADIENTS:
        return _notes_of_gradients(result)
    if not found.keys() >= _TOLD:
        return tuple((name.replace("_", " "), str(value)) for name, value in found.items())
    cost = f"{found['variants']} variants in {found['passes']} passes, {found['positions']} token positions"
    if found.get("prompts", 1) > 1:
        cost += f", for {found['prompts']} prompts together"
    notes = [("model", f"{found['model']}, {found['dtype']}"), ("scored by", str(found["scoring"])), ("cost", cost)]
    if found["empty_prompt"]:
        notes.append(("empty prompt", f"scored after {found['empty_prompt']}"))
    return tuple(notes + _notes_of_target(result))


def _notes_of_gradients(result: ResultData) -> tuple[tuple[str, str], ...]:
    found = result.provenance
    cost = f"{found['passes']} forward and {found['backward']} backward passes, {found['positions']} token positions"
    if found["forward_mode"]:
        cost += f", {found['forward_mode']} rows of forward mode"
    notes = [("model", f"{found['model']}, {found['dtype']}"), ("cost", cost)]
    if found["baseline"] is not None:
        notes.append(("baseline", f"the embedding of {found['baseline']}"))
    if "completeness" in found:
        notes.append(("gap", f"{found['completeness']['gap']:.2%} of the change from the baseline"))
    return tuple(notes + _notes_of_target(result))


def _notes_of_target(result: ResultData) -> list[tuple[str, str]]:
    notes = [("foil", str(result.provenance["foil"]))] if "foil" in result.provenance else []
    if result.region:
        notes.append(("part", f"tokens {result.region[0]} to {result.region[1] - 1} of the answer"))
    return notes
