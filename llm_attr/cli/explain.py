"""`llm-attr explain`: which part of a prompt carried a model's answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llm_attr.errors import InvalidValue


def explain(
    prompt_file: Annotated[str, typer.Option(help="The prompt as a text file; - is standard input.")],
    model: Annotated[str, typer.Option(help="An embedded model, a folder, or a name on the hub.")] = "smollm2-135m",
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a user message of a chat.")] = False,
    unit: Annotated[str, typer.Option(help="token, word or sentence.")] = "sentence",
    method: Annotated[str, typer.Option(help="A name from `llm-attr methods`.")] = "feature_ablation",
    target: Annotated[str | None, typer.Option(help="The answer to explain; generated if not given.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="The longest answer to generate [default: 25].")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that needs nothing from elsewhere.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all numbers.")] = None,
    progress: Annotated[bool, typer.Option("--progress", help="Show a progress bar.")] = False,
) -> None:
    """Generate an answer to a prompt, or take one, and show which units of the prompt carried it."""
    if target is not None and max_new_tokens is not None:
        raise typer.BadParameter("--max-new-tokens is for generated answers; --target gives one")
    text = _read(prompt_file)
    from llm_attr.llm.explain import explain as run
    from llm_attr.llm.explain import method_named
    from llm_attr.llm.model import load_model
    from llm_attr.llm.prompt import Prompt

    method_named(method)
    prompt = Prompt([{"role": "user", "content": text}] if chat else text, unit=unit)
    result = run(
        load_model(model),
        prompt,
        method=method,
        target=target,
        gen_args=None if max_new_tokens is None else {"max_new_tokens": max_new_tokens, "do_sample": False},
        show_progress=progress,
    )
    result.show()
    for path, write in ((html, result.to_html), (json, result.to_json)):
        if path is not None:
            write(path)
            typer.echo(f"written: {path}")


def methods() -> None:
    """List what `explain --method` takes."""
    from llm_attr.llm.explain import methods as known

    for name, line in known().items():
        typer.echo(f"{name}  {line}")


def _read(prompt_file: str) -> str:
    try:
        text = sys.stdin.read() if prompt_file == "-" else Path(prompt_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(f"the prompt file {prompt_file!r} cannot be read as UTF-8 text: {error}") from error
    return text.rstrip("\n")
