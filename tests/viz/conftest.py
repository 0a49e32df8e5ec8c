import pytest

from llm_attr.viz.view import AttributionView

UNITS = (
    "The old mill in Tarnby was built in 1854.",
    "It ground rye for the villages along the river.",
    "In 1921 a fire destroyed its wooden sails.",
    "Aksel Holm bought the building in 1987 and now repairs violins in it.",
    "Visitors can see the workshop on Saturdays.",
    "The nearest railway station is four kilometres away.",
)
HOSTILE = (
    '<script>alert("x")</script>',
    "[bold red]markup[/] [link=http://example.org]here[/link] :smile:",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07 \x9b5m \r\r \x00",
    "\u202eesrever\u202c \u2066 \U000e0041 \ud83d",
    "{{ 7 * 7 }} {% raw %} $x_1$ $$ \\frac{1}{0} & \" ' onmouseover='x()'",
    "日本語のテキスト👩‍🔬👨‍👩‍👧 ❤️ e\u0301 مرحبا नमस्ते",
    "\t\n ",
    "",
    "w" * 5000,
)


@pytest.fixture
def view() -> AttributionView:
    values = (-0.412, 0.083, -0.196, 9.347, 0.731, -1.058)
    return AttributionView(
        title="Which sentence carried the answer?",
        units=UNITS,
        unit_values=values,
        output_tokens=("Ak", "sel", " Holm", " repairs", " violins", ".\n"),
        output_probs=(0.72, 0.999, 0.97, 0.004, 1.0, float("nan")),
        token_values=tuple(tuple(value * share for value in values) for share in (0.1, 0, 0, 0.5, 0.4, 0)),
        context=("<|im_start|>user\n", *[" "] * 5, "\n\nWhat does he do?<|im_end|>\n"),
        notes=(("method", "feature ablation"), ("model", "smollm2-135m")),
    )


@pytest.fixture
def hostile() -> AttributionView:
    values = (3.0, -2.0, float("nan"), float("inf"), 0.0, -1.0, 0.5, 0.25, -0.1)
    return AttributionView(
        title="\x1b[2J<b>title</b>",
        units=HOSTILE,
        unit_values=values,
        output_tokens=HOSTILE,
        output_probs=(0.5,) * len(HOSTILE),
        token_values=(values,) * len(HOSTILE),
        value_name="<i>nats</i>\x1b",
        context=HOSTILE[:1] * (len(HOSTILE) + 1),
        notes=(("\x1b]k", "<img src=x onerror=alert(1)>"),),
    )


@pytest.fixture
def many() -> AttributionView:
    units = tuple(f"word{place}" for place in range(1000))
    return AttributionView(
        title="Many",
        units=units,
        unit_values=tuple(float((place * 7919) % 1001 - 500) for place in range(1000)),
        output_tokens=tuple(f" t{place}" for place in range(500)),
        output_probs=(0.5,) * 500,
        token_values=((1.0,) * 1000,) * 500,
    )


@pytest.fixture
def empty() -> AttributionView:
    return AttributionView(title="", units=(), unit_values=())
