"""The configuration of the site; `python bootstrap.py docs` builds it from a copy of this folder and the notebooks."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole

import llm_attr

sys.path.insert(0, str(Path(__file__).parent))

from shared_arguments import with_shared

project = "llm_attr"
copyright = "the llm_attr authors, BSD-3-Clause"
version = release = llm_attr.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
templates_path = ["_templates"]
exclude_patterns = ["_templates", "notebooks/*.py"]
default_role = "code_or_reference"

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # they would come from elsewhere
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "text/html", 0)]

autodoc_default_options = {"show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 90
add_module_names = False

html_theme = "furo"
html_title = "llm_attr"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1d64ab", "color-brand-content": "#1d64ab"},
    "dark_css_variables": {"color-brand-primary": "#7db8f0", "color-brand-content": "#7db8f0"},
    "footer_icons": [],
}
pygments_style = "default"
pygments_dark_style = "github-dark"

_BARS = re.compile(r"\|(\w[\w ]*)\|")
_NAME = re.compile(r"[A-Za-z_][\w.]*(\(\))?")


def code_or_reference(
    name: str, rawtext: str, text: str, lineno: int, inliner: Inliner, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """What stands in single backticks in a docstring: a link where it names something of the library, else code."""
    if _NAME.fullmatch(text):
        return PyXRefRole()("py:obj", rawtext, text, lineno, inliner, options or {}, content)
    return [nodes.literal(rawtext, text)], []


def keep_bars(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Let |value| mean the magnitude of a value, and not a substitution."""
    lines[:] = [_BARS.sub(r"\|\1\|", line) for line in lines]


def show_shared_arguments(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Describe the arguments that a docstring leaves to the classes it names."""
    if what in ("class", "method", "function") and str(getattr(obj, "__module__", "")).startswith("llm_attr.attr"):
        lines[:] = with_shared(lines, obj)


def show_methods(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Show public methods also where the docstring of their class says what they do."""
    own = inspect.isfunction(obj) and obj.__module__.startswith("llm_attr.")
    return False if own and not name.startswith("_") else None


def keep_first_overload(app: Sphinx, doctree: nodes.document) -> None:
    """Show one signature of each function; what others it has, its docstring tells in words."""
    for description in doctree.findall(addnodes.desc):
        signatures = [child for child in description.children if isinstance(child, addnodes.desc_signature)]
        for signature in signatures[1:]:
            description.remove(signature)


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("doctree-read", keep_first_overload)
    app.connect("autodoc-process-docstring", show_shared_arguments, priority=100)  # before napoleon reads the sections
    app.connect("autodoc-process-docstring", keep_bars)
    app.connect("autodoc-skip-member", show_methods)
    app.add_role("code_or_reference", code_or_reference)
