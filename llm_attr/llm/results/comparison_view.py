"""The view that pictures of a comparison are drawn from."""

from __future__ import annotations

from dataclasses import replace

from llm_attr.llm.results.comparison_data import ComparisonData
from llm_attr.llm.results.view import view as view_of
from llm_attr.viz.formatting import elide
from llm_attr.viz.scale import Scale
from llm_attr.viz.text.view import AttributionView, ComparisonView

_TOP = 3  # units that count as the strongest, if there are twice as many
_SHOWN = 60  # characters of an answer in the heading
_DIFFERENCE = 200  # characters of a difference


def view(comparison: ComparisonData) -> ComparisonView:
    """The texts and numbers of a comparison, and notes on what differs."""
    columns = [_column(comparison, which) for which in range(len(comparison.results))]
    share = comparison.share_scale
    if share is None:
        share = len({_measure(column) for column in columns}) == 1
    shared = Scale.of(*(column.unit_values for column in columns)) if share else None
    answers = {result.output_text.strip() for result in comparison.results}
    what = f"“{elide(' '.join(answers.pop().split()), _SHOWN)}”" if len(answers) == 1 else "one prompt"
    top = min(_TOP, len(comparison.units.texts) // 2)
    shared_units = comparison.top_agreement(top).tolist() if top else []
    return ComparisonView(
        title=f"{len(columns)} explanations of {what}",
        names=comparison.names,
        columns=tuple(replace(column, given_scale=shared or column.scale) for column in columns),
        agreement=tuple(map(tuple, comparison.agreement.tolist())),
        overlap=tuple(tuple(round(top * share) for share in row) for row in shared_units) if top else (),
        top=top or _TOP,
        notes=_notes(comparison),
    )


def _column(comparison: ComparisonData, which: int) -> AttributionView:
    """The view of a result on the common units."""
    units, own = comparison.units, view_of(comparison.results[which])
    errors = comparison.stderr[which]
    return AttributionView(
        title=comparison.names[which],
        units=units.texts,
        unit_values=tuple(comparison.values[which].tolist()),
        value_name=own.value_name,
        context=units.context,
        template=own.template,
        groups=units.groups,
        unit_errors=None if errors.isnan().all() else tuple(errors.tolist()),
        error_name=own.error_name,
        output_tokens=own.output_tokens,
    )


def _measure(column: AttributionView) -> str:
    """The unit of the numbers: nats, or another quantity."""
    return "nats" if column.value_name.endswith("(nats)") else column.value_name


def _notes(comparison: ComparisonData) -> tuple[tuple[str, str], ...]:
    """Each aspect in which the results differ: its texts, each with the numbers of the results that share it."""
    notes = []
    for aspect, texts in comparison.differences.items():
        holders: dict[str, list[int]] = {}
        for key, text in enumerate(texts, 1):
            holders.setdefault(text, []).append(key)
        parts = [f"{_runs(keys)}: {elide(text.strip(), _DIFFERENCE) or '(empty)'}" for text, keys in holders.items()]
        notes.append((f"different {aspect}", "; ".join(parts)))
    return tuple(notes)


def _runs(keys: list[int]) -> str:
    """Ascending numbers, with consecutive ones as "first–last"."""
    runs: list[list[int]] = []
    for key in keys:
        if runs and key == runs[-1][-1] + 1:
            runs[-1].append(key)
        else:
            runs.append([key])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
