"""Matplotlib figures of named values: bar charts of one or several series, and waterfalls from baseline to output.

Axes have the unit of the values; the sum of weak features is drawn pale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from torch import Tensor

from llm_attr.errors import InvalidShape, InvalidValue, UnknownName
from llm_attr.viz.colour import LIGHT, SERIES, mark
from llm_attr.viz.figure import (
    add_caption,
    add_title,
    axes_of,
    cell_width,
    drawable,
    font_options,
    format_labels,
    set_ticks,
)
from llm_attr.viz.formatting import format_number
from llm_attr.viz.scale import Floats, extent
from llm_attr.viz.sign import Numbers, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Order: TypeAlias = Literal["strongest", "given"]
"""The features by descending mean |value|, or in the given order."""

_WIDEST = 60  # cells of a name
_UPRIGHT = 14  # cells of a name up to which bars can stand
_MOST_UPRIGHT = 30
_EDGE = "0.25"
_PALE = 0.5  # share of the full colour that a sum of others has


@dataclass(frozen=True)
class _Table:
    """Names, values `(series, features)` and errors of the same shape, in drawing order."""

    names: list[str]
    values: Floats
    errors: Floats | None
    rest: int = 0

    @classmethod
    def of(cls, names: Sequence[str], values: Numbers, errors: Numbers | None) -> _Table:
        table = np.atleast_2d(_array("values", values))
        if table.ndim != 2 or table.shape[1] != len(names):
            raise InvalidShape(
                f"values must have the shape (features,) or (series, features) for {len(names)} names; got "
                f"{np.shape(values)}"
            )
        if np.isinf(table).any():
            raise InvalidValue("values must be finite, or nan where there is none; infinite ones are given")
        spread = None if errors is None else np.atleast_2d(_array("errors", errors))
        if spread is not None and spread.shape != table.shape:
            raise InvalidShape(f"errors must have the shape of the values, {table.shape}; got {spread.shape}")
        if spread is not None and (spread < 0).any():
            raise InvalidValue(f"errors must be 0 or more; the smallest given is {np.nanmin(spread):g}")
        return cls(["\n".join(format_labels(str(name).split("\n"), _WIDEST)) for name in names], table, spread)

    def ordered(self, order: Order, most: int | None) -> _Table:
        """Sorted, with the weakest features summed into one if there are more than `most`."""
        if order not in get_args(Order):
            raise UnknownName("order", order, get_args(Order))
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise InvalidValue(f"most must be a whole number, 1 or more features, or None; got {most!r}")
        strongest = np.argsort(-np.nan_to_num(np.abs(self.values)).mean(0), kind="stable")
        kept = strongest if most is None or len(self.names) <= most + 1 else strongest[:most]
        shown = np.sort(kept) if order == "given" else kept
        rest = np.setdiff1d(strongest, kept)
        names, values = [self.names[i] for i in shown], self.values[:, shown]
        errors = None if self.errors is None else self.errors[:, shown]
        if not rest.size:
            return _Table(names, values, errors)
        values = np.column_stack([values, np.nansum(self.values[:, rest], axis=1)])
        errors = None if errors is None else np.column_stack([errors, np.full(len(values), np.nan)])
        return _Table([*names, f"{rest.size:,} others"], values, errors, rest.size)


def plot_bars(
    names: Sequence[str],
    values: Numbers,
    errors: Numbers | None = None,
    *,
    series: Sequence[str] = (),
    reference: Numbers | None = None,
    reference_name: str = "reference",
    order: Order = "strongest",
    most: int | None = None,
    upright: bool | None = None,
    value_name: str = "attribution",
    error_name: str = "standard error",
    title: str = "",
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Bar chart of features: one series coloured by sign, or several side by side with a colour each.

    Args:
        names: the names of the features; line breaks are kept.
        values: `(features,)` or `(series, features)` numbers; arrays, tensors or lists.
        errors: the length of the whiskers, in the same shape; NaN for none.
        series: the names of the series, for the legend.
        reference: `(features,)` values drawn as lines across the bars of each feature.
        reference_name: its name in the legend.
        order: `strongest`, by mean |value|, or `given`.
        most: the number of features to show; the sum of the others is an additional bar without whiskers.
        upright: whether bars are vertical; by default if names are short and few.
        value_name: what the values measure, with the unit.
        error_name: what the whiskers are.
        title: the title.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        InvalidShape: names, values, errors, series or reference do not match.
        InvalidValue: an infinite value, a negative error, `most` below 1, or more series than there are colours (6).
        UnknownName: unknown order.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> plot_bars(["age", "income"], [0.4, -1.2], errors=[0.1, 0.2], value_name="score")  # doctest: +SKIP
    """
    table = _Table.of(names, values, errors)
    if reference is not None:
        table = _with_reference(table, reference)
    rows = len(table.values) - (reference is not None)
    _check_series(series, rows)
    table = table.ordered(order, most)
    stands = _stands(table, upright)
    fig, ax = axes_of(ax, _size(table, rows, stands))
    for row in range(rows):
        _draw_series(ax, table, row, rows, stands, series[row] if series else "")
    if reference is not None:
        _draw_reference(ax, table.values[-1], stands, reference_name)
    _dress(ax, table, stands, value_name)
    whiskers = "" if table.errors is None else f"whiskers: {drawable(error_name)}"
    rest = f"“{table.names[-1]}” is the sum of the weakest" if table.rest else ""
    add_caption(ax, *([] if stands else [drawable(value_name)]), "; ".join(filter(None, [whiskers, rest])))
    if series or reference is not None:
        ax.legend(frameon=False, prop={"family": font_options()["fontfamily"], "size": 8.5}, loc="best")
    add_title(ax, title)
    return fig, ax


def plot_waterfall(
    names: Sequence[str],
    values: Numbers,
    base: Numbers,
    errors: Numbers | None = None,
    *,
    output: Numbers | None = None,
    order: Order = "strongest",
    most: int | None = 12,
    base_name: str = "baseline",
    output_name: str = "output",
    value_name: str = "output",
    error_name: str = "standard error",
    title: str = "",
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Waterfall chart from the output at the baseline to the output, a step for each feature; the caption has the sum.

    Args:
        names: the names of the features.
        values: `(features,)` attributions.
        base: the output at the baseline, where the first step starts: a number, or an array or tensor with one.
        errors: `(features,)` the length of the whiskers; NaN for none.
        output: the explained output, like `base`; by default the sum. If base and values do not add up to it, the
            difference is a step of its own, "not attributed".
        order: `strongest`, by |value|, or `given`.
        most: the number of features to show, or None for all; the sum of the others is an additional step.
        base_name: the name of the start.
        output_name: the name of the end.
        value_name: what is measured, with the unit.
        error_name: what the whiskers are.
        title: the title.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        InvalidShape: names, values and errors do not match, there are several series, or base or output is not a
            single number.
        InvalidType: base or output is not a number.
        InvalidValue: a value, base or output is not finite, an error is negative, or `most` is below 1.
        UnknownName: unknown order.
        MissingExtra: matplotlib is not installed.
    """
    table = _Table.of(names, values, errors)
    if len(table.values) != 1:
        raise InvalidShape(f"a waterfall has one series of values; got {len(table.values)}")
    base = _single("base", base)
    total = float(base + table.values.sum())
    end = total if output is None else _single("output", output)
    if not np.isfinite([total, end]).all():
        raise InvalidValue(f"values, base and output must be finite; they add up to {total:g}, output is {end:g}")
    table = table.ordered(order, most)
    steps, labels = table.values[0].tolist(), list(table.names)
    if abs(end - total) > 1e-3 * max(extent(table.values), abs(end - base)):
        steps, labels = [*steps, end - total], [*labels, "not attributed"]
    ends = base + np.cumsum([0.0, *steps])
    fig, ax = axes_of(ax, (_lying_width(labels), max(1.6 + 0.32 * (len(steps) + 2), 2.6)))
    colours = [mark(step) for step in steps]
    if table.rest:
        colours[len(table.names) - 1] = LIGHT.at(_PALE * np.sign(steps[len(table.names) - 1])) or LIGHT.zero
    if len(steps) > len(table.names):
        colours[-1] = SERIES[2]
    _draw_steps(ax, ends, colours)
    _write_steps(ax, ends, table.errors)
    _draw_ends(ax, ends)
    set_ticks(ax.yaxis, [drawable(base_name), *labels, drawable(output_name)])
    whiskers = "" if table.errors is None else f"whiskers: {drawable(error_name)} of each step"
    limit = float(np.abs(ends).max())
    plain = [format_number(number, limit).lstrip("+") for number in (base, ends[-1])]
    added = f"{drawable(base_name)} {plain[0]} {_step(ends[-1] - base, limit)} = {drawable(output_name)} {plain[1]}"
    add_caption(ax, drawable(value_name), "; ".join(filter(None, [added, whiskers])))
    add_title(ax, title)
    return fig, ax


def _array(name: str, given: Numbers) -> Floats:
    """The numbers in an array, a tensor (with or without gradient, on any device) or a list."""
    plain = given.detach().cpu().double() if isinstance(given, Tensor) else given
    try:
        return np.asarray(plain, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidShape(f"{name} must be numbers in rows of one length; {error}") from error


def _single(name: str, given: Numbers) -> float:
    """A number, possibly in an array or tensor."""
    array = to_array(given, name)
    if array.size != 1:
        raise InvalidShape(f"{name} must be one number; given the shape {array.shape}")
    return float(array.item())


def _with_reference(table: _Table, reference: Numbers) -> _Table:
    """Appends the reference as a last series without errors, so it is sorted and summed like the others."""
    given = _array("reference", reference)
    if given.shape != (len(table.names),):
        raise InvalidShape(f"reference must have the shape ({len(table.names)},); got {given.shape}")
    errors = None if table.errors is None else np.vstack([table.errors, np.full(len(given), np.nan)])
    return _Table(table.names, np.vstack([table.values, given]), errors)


def _check_series(series: Sequence[str], rows: int) -> None:
    if series and len(series) != rows:
        raise InvalidShape(f"series must name each of the {rows} rows of values; got {len(series)} names")
    if rows > len(SERIES):
        raise InvalidValue(f"at most {len(SERIES)} series can be told apart; got {rows}")


def _width(name: str) -> int:
    return max(map(cell_width, name.split("\n")))


def _stands(table: _Table, upright: bool | None) -> bool:
    if upright is not None:
        return upright
    return len(table.names) <= _MOST_UPRIGHT and max(map(_width, table.names), default=0) <= _UPRIGHT


def _size(table: _Table, rows: int, stands: bool) -> tuple[float, float]:
    each = 0.3 + 0.17 * (rows - 1) if not stands else 0.7 + 0.14 * (rows - 1)
    length = each * len(table.names)
    if stands:
        return max(length + 1.2, 5.0), 4.0
    return _lying_width(table.names), max(length + 1.3, 2.4)


def _lying_width(names: Sequence[str]) -> float:
    return 6.0 + 0.075 * max(map(_width, names), default=0)


def _draw_series(ax: Axes, table: _Table, row: int, rows: int, stands: bool, name: str) -> None:
    thick = 0.72 / rows
    places = np.arange(len(table.names)) + thick * (row - (rows - 1) / 2)
    values = np.nan_to_num(table.values[row])
    colour = [mark(value) for value in values] if rows == 1 else SERIES[row]
    errors = None if table.errors is None else np.nan_to_num(table.errors[row])
    if rows == 1 and table.rest:
        colour = [*colour[:-1], LIGHT.at(_PALE * np.sign(values[-1])) or LIGHT.zero]
    options: dict[str, Any] = {"color": colour, "label": drawable(name) if name else None}
    (ax.bar if stands else ax.barh)(places, values, thick * (1 if rows == 1 else 0.9), **options)
    if errors is not None:
        shown = np.isfinite(table.errors[row]) if table.errors is not None else errors > 0
        across = {"yerr" if stands else "xerr": errors[shown]}
        points = (places[shown], values[shown]) if stands else (values[shown], places[shown])
        ax.errorbar(*points, **across, fmt="none", ecolor=_EDGE, capsize=2, elinewidth=0.9)


def _draw_reference(ax: Axes, values: Floats, stands: bool, name: str) -> None:
    places = np.arange(len(values))
    (ax.hlines if stands else ax.vlines)(
        values, places - 0.42, places + 0.42, color=LIGHT.ink, linewidth=1.3, label=drawable(name)
    )


def _dress(ax: Axes, table: _Table, stands: bool, value_name: str) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis="y" if stands else "x", color="0.92", linewidth=0.8)
    ends = (-0.6, max(len(table.names), 1) - 0.4)
    if stands:
        ax.axhline(0, color=_EDGE, linewidth=0.8)
        ax.set_xlim(*ends)
        ax.set_ylabel(drawable(value_name), **font_options())
        set_ticks(ax.xaxis, table.names)
    else:
        ax.axvline(0, color=_EDGE, linewidth=0.8)
        ax.set_ylim(*ends[::-1])
        set_ticks(ax.yaxis, table.names)
    (ax.xaxis if stands else ax.yaxis).set_tick_params(length=0)


def _draw_steps(ax: Axes, ends: Floats, colours: list[str]) -> None:
    """Bars from each end to the next, joined by thin lines."""
    count = len(colours)
    ax.barh(range(1, count + 1), np.diff(ends), left=ends[:-1], height=0.7, color=colours)
    ax.vlines(ends, np.arange(count + 1) - 0.35, np.arange(count + 1) + 1.35, color="0.6", linewidth=0.7)
    ax.set_ylim(count + 1.6, -0.6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.yaxis.set_tick_params(length=0)
    ax.grid(axis="x", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)


def _write_steps(ax: Axes, ends: Floats, errors: Floats | None) -> None:
    """The number of each step, to the right of its whisker."""
    steps = np.diff(ends)
    reach = np.zeros(len(steps))
    if errors is not None:
        reach[: errors.shape[1]] = np.nan_to_num(errors[0], posinf=0.0)
        drawn = np.flatnonzero(reach)
        whiskers: dict[str, Any] = {"fmt": "none", "ecolor": _EDGE, "capsize": 2, "elinewidth": 0.9}
        ax.errorbar(ends[1:][drawn], drawn + 1, xerr=reach[drawn], **whiskers)
    for place, (step, start, error) in enumerate(zip(steps.tolist(), ends.tolist(), reach.tolist(), strict=False), 1):
        right = max(start, start + step + error)
        ax.annotate(
            *(format_number(step, extent(steps)), (right, place), (4, 0)),
            textcoords="offset points", va="center", fontsize=8, color=LIGHT.ink, **font_options(),
        )  # fmt: skip


def _draw_ends(ax: Axes, ends: Floats) -> None:
    """Points at both ends, with their numbers."""
    limit = float(np.abs(ends).max())
    for place, number in ((0, ends[0]), (len(ends), ends[-1])):
        ax.plot(number, place, "o", color=LIGHT.ink, markersize=5, clip_on=False)
        text = format_number(number, limit).lstrip("+")
        ax.annotate(
            text, (number, place), (7, 0), textcoords="offset points", va="center", fontsize=9, **font_options()
        )
    low, high = ax.dataLim.intervalx
    room = (high - low) or 1.0
    ax.set_xlim(low - 0.04 * room, high + 0.12 * room)


def _step(value: float, limit: float) -> str:
    """The value as a sum continues with it: "+ 3.2" or "− 3.2"."""
    text = format_number(value, limit)
    return f"{'−' if text.startswith('−') else '+'} {text.lstrip('+−')}"
