"""The reference part of docs/cli.md, made from the commands: `python -m dashboard.commands.reference docs/cli.md`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

BEGIN = "<!-- made by `python -m dashboard.commands.reference docs/cli.md`; a test fails when it is not up to date -->"
WIDTH = 100  # characters of a help text


def reference() -> str:
    """Markdown with the `--help` text of every command."""
    from dashboard.cli import app

    sections = []
    for name, text in _helps(get_command(app), "simplenet", None):
        sections.append(f"### {name}\n\n```text\n{text.strip()}\n```\n")
    return f"{BEGIN}\n\n" + "\n".join(sections)


def updated(document: str) -> str:
    """The document with its reference part replaced; everything before the mark stays."""
    written, mark, _ = document.partition(BEGIN)
    if not mark:
        written = document.rstrip() + "\n\n"
    return written + reference()


def _helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.make_context(name.split()[-1], [], parent=parent, resilient_parsing=True)
    context.terminal_width = context.max_content_width = WIDTH
    yield name, context.get_help()
    for inner_name, inner in getattr(command, "commands", {}).items():
        yield from _helps(inner, f"{name} {inner_name}", context)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(updated(file.read_text(encoding="utf-8")), encoding="utf-8")
    typer.echo(f"{file} is up to date.", err=True)
