"""Interactive picture of results in a notebook, whose selection can be read and set from Python.

The widget shows the markup of `llm_attr.viz.text.page` and mounts `static/attr.js` on it, as a page does; it makes no
network requests. This module needs the extra `notebook`, so it is imported on use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol, TypeAlias

from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, MissingExtra
from llm_attr.viz.text.page import fragment
from llm_attr.viz.text.script import Selection, is_live, numbers, widget_module
from llm_attr.viz.text.view import AttributionView

try:
    from anywidget import AnyWidget
    from traitlets import Dict, TraitType
except ImportError as error:
    raise MissingExtra("anywidget", "notebook") from error

_COLUMNS = "display:grid;gap:1rem;align-items:start;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr))"


class Viewable(Protocol):
    """A result with a view, e.g. an `LLMAttributionResult`."""

    def view(self) -> AttributionView: ...


Drawn: TypeAlias = "AttributionView | Viewable"
"""Whatever a panel can show."""


class _Selected(TraitType):
    """A `Selection` that is valid in the widget's panels."""

    def validate(self, obj: Any, value: object) -> Selection:
        if not isinstance(value, Selection):
            raise InvalidType(f"selected must be a Selection; given {type(value).__name__}")
        value.check(obj.views)
        return value


class AttributionWidget(AnyWidget):
    """The interactive picture of a result, or of several side by side, for Jupyter notebooks.

    Click an output token or drag over several to colour the prompt's units by their sum; click a unit to see which
    output tokens it raised or lowered. Tokens are selected in all panels with the same answer, a unit in all panels
    with the same text at its position.

    A saved notebook also holds the picture as HTML, for readers without a kernel (JupyterLab itself shows a widget
    only after its cell has run again). Tools that execute a notebook may store the widget's state and then load
    Jupyter's own scripts from the internet instead; `jupyter nbconvert --execute` uses the HTML with
    `--ExecutePreprocessor.store_widget_state=False`. A result displayed without a widget does not need any of this.

    Attributes:
        selected: the `Selection`; setting it updates the notebook, `observe` reports every click.

    Args:
        *results: results or their views, one for each panel.
        names: titles of the panels; by default the titles of the views.

    Raises:
        InvalidValue: there is no result.
        InvalidType: an argument is neither a result nor a view, or a name is not a string.
        InvalidShape: the number of names differs from the number of results.

    Example:
        >>> widget = AttributionWidget(result, other, names=("ablation", "gradient"))  # doctest: +SKIP
        >>> widget.selected = Selection(tokens=(2, 5), unit=3)  # doctest: +SKIP
    """

    _esm = widget_module()
    _drawn = Dict().tag(sync=True)
    selected = _Selected(Selection()).tag(
        sync=True,
        to_json=lambda value, widget: asdict(value),
        from_json=lambda value, widget: _selection(value),
    )

    def __init__(self, *results: Drawn, names: Sequence[str] | None = None) -> None:
        self._names = None if names is None else tuple(names)
        self._results, self._views = results, _views(results, self._names)
        super().__init__(_drawn=_content(self._views))

    @property
    def results(self) -> tuple[Drawn, ...]:
        """The results in the panels; setting them clears the selection."""
        return self._results

    @results.setter
    def results(self, results: Sequence[Drawn]) -> None:
        results = tuple(results)
        self._views, self._results = _views(results, self._names), results
        with self.hold_sync():
            self.set_trait("selected", Selection())
            self.set_trait("_drawn", _content(self._views))

    @property
    def result(self) -> Drawn:
        """The result in the only panel; setting it clears the selection.

        Raises:
            InvalidValue: there are several panels.
        """
        return self._results[self._only()]

    @result.setter
    def result(self, result: Drawn) -> None:
        self._only()
        self.results = (result,)

    @property
    def views(self) -> tuple[AttributionView, ...]:
        """The views in the panels, with their titles."""
        return self._views

    def to_html(self) -> str:
        """The panels without a kernel: one `<div>` for a larger page, interactive if scripts may run."""
        return _side_by_side([fragment(view) for view in self._views])

    def __repr__(self) -> str:
        return f"AttributionWidget({', '.join(repr(view.title) for view in self._views)})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and HTML for readers without a kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "text/html": self.to_html()}, metadata

    def _only(self) -> int:
        if len(self._results) > 1:
            raise InvalidValue(f"the widget shows {len(self._results)} results, not one; use `results`")
        return 0


def _views(results: Sequence[Drawn], names: tuple[str, ...] | None) -> tuple[AttributionView, ...]:
    if not results:
        raise InvalidValue("a widget needs at least one result; given none")
    views = tuple(_view(result) for result in results)
    if names is None:
        return views
    if len(names) != len(views):
        raise InvalidShape(f"names must be one for each of the {len(views)} results; got {len(names)}")
    for name in names:
        if not isinstance(name, str):
            raise InvalidType(f"every name must be a text; given {name!r}")
    return tuple(replace(view, title=name) for view, name in zip(views, names, strict=True))


def _view(result: Drawn) -> AttributionView:
    if isinstance(result, AttributionView):
        return result
    view = getattr(result, "view", None)
    if not callable(view):
        raise InvalidType(f"a widget shows results or views; given {type(result).__name__}")
    made = view()
    if not isinstance(made, AttributionView):
        raise InvalidType(
            f"a widget shows single results or their views; given {type(result).__name__}: give each of its results"
        )
    return made


def _content(views: Sequence[AttributionView]) -> dict[str, Any]:
    """The content that `static/widget.js` renders."""
    return {
        "markup": _side_by_side([fragment(view, scripts=False) for view in views]),
        "numbers": [numbers(view) if is_live(view) else None for view in views],
    }


def _side_by_side(panels: Sequence[str]) -> str:
    return panels[0] if len(panels) == 1 else f'<div style="{_COLUMNS}">{"".join(panels)}</div>'


def _selection(sent: dict[str, Any]) -> Selection:
    """The selection sent by the notebook."""
    tokens = sent["tokens"]
    return Selection(None if tokens is None else (tokens[0], tokens[1]), sent["unit"], sent["panel"])
