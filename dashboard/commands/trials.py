"""Commands on trials: reproduce, compare."""

from typing import TYPE_CHECKING, Annotated

import typer

from dashboard import wording
from dashboard.commands import reporting
from dashboard.commands.reporting import ExitCode, command

if TYPE_CHECKING:
    from tuning.reproduce import Reproduction

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    app.command()(reproduce)


@command
def reproduce(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Id of a trial's run in MLflow, or study and trial, such as 3.7."),
    ],
    keep: Annotated[
        bool, typer.Option("--keep", help="Put the weights into the run, so that heatmaps can be compared.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a trial again from all that its run holds, and compare value, figures and weights.

    Ends with 7 where they are not equal to the last bit.
    """
    from tuning import reproduce as reproducing

    workspace = reporting.open_workspace()
    with reporting.progress_bar("Repeating", unit="step") as progress:
        found = reproducing.reproduce(workspace, run, keep=keep, progress=progress)
    answer = {**reporting.plain(found), "equal": found.equal, "verdict": found.verdict}
    reporting.answer(answer, as_json=as_json, text=_told(found))
    raise typer.Exit(ExitCode.OK if found.equal else ExitCode.DIFFERENT)


def _told(found: "Reproduction") -> str:
    rows = [
        [
            one.name.replace("_", " "),
            _number(one.recorded),
            _number(one.repeated),
            "equal" if one.equal else "–" if one.difference is None else f"{one.difference:+.2g}",
        ]
        for one in (found.value, *found.figures)
    ]
    same = found.recorded_weights == found.repeated_weights
    rows.append(
        ["weights", found.recorded_weights[:12], found.repeated_weights[:12], "equal" if same else "other"]
    )
    table = reporting.table(["figure", "recorded", "now", "difference"], rows)
    took = wording.duration(found.seconds)
    return f"{found.run_name}, trained again in {took}:\n{table}\n{found.verdict}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
