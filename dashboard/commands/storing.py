"""Command on where an installation keeps things: storage."""

from typing import Annotated

import typer

from dashboard.commands import reporting
from dashboard.commands.reporting import ExitCode, command


def register(app: typer.Typer) -> None:
    """Add the command to `simplenet`."""
    app.command()(storage)


@command
def storage(
    copy_pictures_from: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="First copy the pictures and masks that are missing here from where they were: a folder of blobs, or "
            "s3://bucket/prefix. They stay there, too.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")] = False,
) -> None:
    """Say where databases, pictures and logs lie, and whether the pictures are in reach."""
    from storage.copying import copy_blobs
    from storage.places import places
    from storage.workspace import open_blobs
    from tuning.joining import some_pictures

    workspace = reporting.open_workspace()
    lost = False
    if copy_pictures_from is not None:
        given = {"home": workspace.settings.home, "blobs_url": copy_pictures_from}
        source = open_blobs(reporting.read_settings(given))
        with reporting.progress_bar("Copying", unit="file") as bar:
            came = copy_blobs(source, workspace.blobs, bar)
        for sentence in came.left_out:
            reporting.say(f"left out: {sentence}")
        reporting.say(f"{came.copied:,} files copied, {came.there:,} were there already.")
        lost = bool(came.left_out)
    wanted = some_pictures(workspace)
    found = workspace.blobs.sizes(wanted)
    where = places(workspace.settings)
    width = max(map(len, where)) + 2
    lines = [f"{name:<{width}}{place}" for name, place in where.items()]
    lines.append(
        f"{len(found)} of {len(wanted)} pictures that were looked for are there."
        if wanted
        else "No dataset yet; no picture was looked for."
    )
    reporting.answer(
        {"places": where, "looked_for": len(wanted), "found": len(found)},
        as_json=as_json,
        text="\n".join(lines),
    )
    if lost or len(found) < len(wanted):
        raise typer.Exit(ExitCode.ERROR)
