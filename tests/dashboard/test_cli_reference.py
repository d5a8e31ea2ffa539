"""Every command, option and exit code stands in docs/cli.md."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer import Typer
from typer.main import get_command

from dashboard.cli import app
from dashboard.commands.reference import BEGIN, updated
from dashboard.commands.reporting import ExitCode

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


def test_reference_is_up_to_date() -> None:
    written = DOCUMENT.read_text(encoding="utf-8")
    assert written == updated(written), "run: python -m dashboard.commands.reference docs/cli.md"


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    for own, command in group.commands.items():
        yield f"{name} {own}", command
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {own}")


def test_every_command_and_option_is_explained() -> None:
    named = dict(_commands(get_command(app), "simplenet"))
    assert "simplenet dataset relabel" in named
    for name, command in named.items():
        assert command.help, f"command {name} has no help text"
        for parameter in command.params:
            assert parameter.help, f"{name}: {parameter.name} has no help text"


def _names(app: Typer) -> list[str]:
    commands = [one.name or one.callback.__name__.replace("_", "-") for one in app.registered_commands]
    return commands + [str(group.name) for group in app.registered_groups]


def test_no_command_takes_the_name_of_another() -> None:
    waiting = [app]
    while waiting:
        group = waiting.pop()
        names = _names(group)
        assert sorted(names) == sorted(set(names)), "the one registered last would be the only one"
        waiting += [one.typer_instance for one in group.registered_groups]


def test_every_picture_and_page_that_the_documents_name_is_there() -> None:
    root = DOCUMENT.parents[1]
    for document in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} names {target}"


def test_every_exit_code_is_documented() -> None:
    listed = {
        int(code) for code in re.findall(r"^\| (\d+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert listed == set(ExitCode)


def test_a_document_without_reference_gets_one() -> None:
    assert updated("# Title\n").startswith(f"# Title\n\n{BEGIN}\n")
