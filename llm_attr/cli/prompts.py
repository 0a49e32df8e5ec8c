"""Prompts from files: texts, messages, documents, and traces of agents."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llm_attr.errors import InvalidValue

if TYPE_CHECKING:
    from llm_attr.llm.prompt.prompt import Prompt


def prompt_of(
    prompt_file: str | None,
    messages: Path | None,
    documents: Path | None,
    chat: bool,
    system: str | None,
    options: dict[str, Any],
    trace: Path | None = None,
    action: str | None = None,
) -> Prompt:
    """The prompt that the options describe.

    Raises:
        BadParameter: they contradict each other.
        LlmAttrError: a file cannot be read, or is of another form.
    """
    from llm_attr.llm.prompt.prompt import Prompt

    if action is not None and trace is None:
        raise typer.BadParameter("--action needs --trace")
    if trace is not None:
        return _trace(trace, action, (prompt_file, messages, documents, system), chat, options)
    if (prompt_file is None) == (messages is None):
        raise typer.BadParameter("give either --prompt-file or --messages")
    if messages is not None and (documents is not None or chat or system is not None):
        raise typer.BadParameter("--messages is a complete chat; --documents, --chat and --system need --prompt-file")
    if not chat and messages is None and (system is not None or "template_kwargs" in options):
        raise typer.BadParameter("--system and --template apply to a chat: add --chat")
    if messages is not None:
        return Prompt(_json(read_text(str(messages)), str(messages)), **options)
    text = read_text(str(prompt_file)).rstrip("\n")
    if documents is not None:
        return Prompt.from_documents(text, dict(_documents(documents)), chat=chat, system=system, **options)
    before = [] if system is None else [{"role": "system", "content": system}]
    return Prompt([*before, {"role": "user", "content": text}] if chat else text, **options)


def _trace(path: Path, action: str | None, others: tuple[Any, ...], chat: bool, options: dict[str, Any]) -> Prompt:
    from llm_attr.llm.prompt.prompt import Prompt

    if chat or any(other is not None for other in others):
        raise typer.BadParameter(
            "--trace is complete; leave out --prompt-file, --messages, --documents, --chat and --system"
        )
    content = _json(read_text(str(path)), str(path))
    tools = content.get("tools", []) if isinstance(content, dict) else []
    messages = content.get("messages") if isinstance(content, dict) else content
    if not isinstance(messages, list):
        raise InvalidValue(f'{path}: expected a list of messages, or {{"messages": [...], "tools": [...]}}')
    return Prompt.from_trace(messages, tools=tools or [], target=action, **options)


def _documents(source: Path) -> Iterator[tuple[str, str]]:
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
        yield from ((path.name, read_text(str(path)).rstrip("\n")) for path in files)
        return
    for number, line in enumerate(read_text(str(source)).splitlines(), 1):
        if line.strip():
            entry = _json(line, f"{source}, line {number}")
            if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
                raise InvalidValue(f'{source}, line {number}: expected {{"id": ..., "text": ...}}; got {line[:80]}')
            yield str(entry.get("id", number)), entry["text"]


def _json(text: str, where: str) -> Any:
    try:
        return json_text.loads(text)
    except ValueError as error:
        raise InvalidValue(f"{where} is not JSON: {error}") from error


def read_text(path: str) -> str:
    """The text of a file; `-` is standard input.

    Raises:
        InvalidValue: it cannot be read as UTF-8.
    """
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "cannot be read"
        raise InvalidValue(f"{path!r} {what}: {error}") from error
