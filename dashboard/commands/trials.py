"""Commands on trials: reproduce, compare."""

from typing import TYPE_CHECKING, Annotated

import typer

from dashboard import wording
from dashboard.commands import reporting
from dashboard.commands.reporting import ExitCode, command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuning.compare import Difference, Disagreement, Subject
    from tuning.reproduce import Reproduction

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    app.command()(reproduce)
    app.command()(compare)


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


@command
def compare(
    name: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")],
    keys: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT…",
            help="2 to 6 of them: 3.7 is trial 7 of study 3, s3 is study 3 with its best trial, v2 is model version "
            "2.",
        ),
    ],
    limit: Annotated[int, typer.Option("--limit", min=0, help="Pictures to list that they disagree on.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Set trials, studies and models side by side: what differs, their figures, and where they disagree."""
    from tuning import compare as comparing

    workspace = reporting.open_workspace()
    compared = comparing.subjects(workspace, name, comparing.read_keys(",".join(keys)))
    shown = comparing.pictures(workspace, compared)
    known = [comparing.scores(workspace, subject, shown) for subject in compared]
    found = comparing.disagreements(compared, known, shown)
    url = comparing.mlflow_url(workspace, compared)
    differing = comparing.differences(compared)
    answer = {
        "compared": [
            {
                "key": one.key,
                "study": one.study.id,
                "trial": one.trial_number + 1,
                "dataset_version": one.version.number,
                "run_id": one.run_id,
                "objective": one.objective,
                "value": one.value,
                "validation": one.validation,
                "test": one.test,
                "latency_ms": one.latency_ms,
                "config": one.config,
                "has_weights": comparing.has_weights(workspace, one),
            }
            for one in compared
        ],
        "differing": {row.name: list(row.values) for row in differing},
        "pictures": len(found),
        "decided_differently": sum(one.split for one in found),
        "disagreements": [
            {
                "image": one.picture.image.name,
                "planted": one.picture.planted,
                "truth": one.picture.defect_type,
                "scores": list(one.scores),
                "decisions": list(one.decisions),
            }
            for one in found[:limit]
        ],
        "mlflow": url,
    }
    reporting.answer(
        answer, as_json=as_json, text=_side_by_side(compared, differing, found[:limit], found, url)
    )


def _side_by_side(
    compared: "Sequence[Subject]",
    differing: "Sequence[Difference]",
    listed: "Sequence[Disagreement]",
    found: "Sequence[Disagreement]",
    url: str,
) -> str:
    from dashboard import comparison

    keys = [one.key for one in compared]
    values = ["value", *(wording.number(one.value) for one in compared)]
    rows = [["objective", *(one.objective for one in compared)], values]
    parts = [
        reporting.table(["setting", *keys], comparison.setting_rows(differing)),
        reporting.table(["figure", *keys], [*rows, *comparison.figure_rows(compared)]),
    ]
    kinds = comparison.defect_type_rows(compared)
    if kinds:
        parts.append(reporting.table(["defect type", *keys], kinds))
    if listed:
        pictures = [[comparison.picture_name(one), comparison.truth(one), *one.decisions] for one in listed]
        parts.append(comparison.decision_line(found))
        parts.append(reporting.table(["picture", "truth", *keys], pictures))
    parts.append(f"The same in MLflow: {url}")
    return "\n\n".join(parts)
