"""The command that chooses where a model cuts between accept and reject: threshold."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dashboard import wording
from dashboard.commands import reporting
from dashboard.commands.reporting import command
from dashboard.errors import BadOption

if TYPE_CHECKING:
    from storage.records import Model, OperatingPoint
    from storage.workspace import Workspace
    from tuning.operating_points import Evidence, Proposal

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
Name = Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")]


def register(app: typer.Typer) -> None:
    """Add the command to `simplenet`."""
    app.command()(threshold)


@command
def threshold(
    name: Name,
    false_reject_rate: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Reject at most this share of normal parts, guaranteed: 0.02."),
    ] = None,
    costs: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            metavar="ESCAPE FALSE_REJECT DEFECT_RATE",
            help="Least cost: what an escape and a false reject cost, and the share of parts with a defect: 50 1 0.01.",
        ),
    ] = None,
    f1: Annotated[bool, typer.Option("--f1", help="The highest F1 on the validation pictures.")] = False,
    value: Annotated[float | None, typer.Option(metavar="SCORE", help="This number.")] = None,
    back: Annotated[
        int | None,
        typer.Option(
            metavar="POINT",
            help="An earlier one, by its number in --show; 0 is what the model was made with.",
        ),
    ] = None,
    model: Annotated[
        int | None, typer.Option(metavar="VERSION", help="Version of the model; default: the champion.")
    ] = None,
    why: Annotated[str, typer.Option(help="The reason, for the record.")] = "",
    show: Annotated[
        bool, typer.Option("--show", help="Tell the present one and the history; the default.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Choose the threshold that a model decides with, or show it: nothing is trained anew.

    It is chosen on the calibration and validation pictures; what follows for the test pictures is only told.
    Pages, `score`, `heatmaps` and `serve` decide by it from the next picture on.
    """
    from tuning import operating_points, predictor
    from tuning.champion import current_user

    given = [
        option
        for option, is_given in {
            "--false-reject-rate": false_reject_rate is not None,
            "--costs": costs is not None,
            "--f1": f1,
            "--value": value is not None,
            "--back": back is not None,
            "--show": show,
        }.items()
        if is_given
    ]
    if len(given) > 1:
        raise BadOption(f"{' and '.join(given)} exclude each other. Give one of them.")
    workspace = reporting.open_workspace()
    found = predictor.chosen_model(workspace, name, model)
    if not given or show:
        _show(workspace, found, as_json=as_json)
        return
    if not why.strip() and back is None:
        raise BadOption('The reason is missing; an operating point is recorded with one. Add --why "…".')
    with reporting.progress_bar("Scoring") as progress:
        evidence = operating_points.evidence(workspace, found, progress=progress)
    proposal = None
    if back is not None:
        changed = operating_points.restore_point(
            workspace, found, back or None, found=evidence, who=current_user(), why=why
        )
    else:
        proposal = _proposal(evidence, false_reject_rate, costs, value)
        changed = operating_points.set_point(
            workspace, found, proposal, found=evidence, who=current_user(), why=why
        )
    reporting.answer(
        {"dataset": name, "model_version": found.version, "point": changed.point},
        as_json=as_json,
        text=_text(found, changed.point, proposal.about if proposal else changed.point.why),
    )
    if changed.untagged:
        reporting.say(f"warning: MLflow does not show it: {changed.untagged}")


def _proposal(
    evidence: "Evidence",
    rate: float | None,
    costs: tuple[float, float, float] | None,
    value: float | None,
) -> "Proposal":
    from tuning import operating_points

    if rate is not None:
        return operating_points.by_false_reject_rate(evidence, rate)
    if costs is not None:
        escape, false_reject, defect_rate = costs
        return operating_points.by_costs(
            evidence, escape=escape, false_reject=false_reject, defect_rate=defect_rate
        )
    if value is not None:
        return operating_points.by_value(value)
    return operating_points.by_f1(evidence)


def _text(model: "Model", point: "OperatingPoint", about: str) -> str:
    lines = [
        f"Version {model.version} of '{model.dataset_name}' rejects above {point.threshold:.6g}: {about}."
    ]
    for role, figures in point.figures.items():
        planted = " (synthetic defects)" if figures["synthetic"] else ""
        lines.append(
            f"On {role}{planted}: {wording.plural(figures['false_rejects'], 'false reject')} of "
            f"{figures['normal']}, {wording.plural(figures['escapes'], 'escape')} of {figures['anomalous']}"
        )
    return "\n".join(lines)


def _show(workspace: "Workspace", model: "Model", *, as_json: bool) -> None:
    from storage import operating_points

    with workspace.session() as session:
        points = operating_points.history(session, model)
    rows: list[list[Any]] = [
        [
            point.id or 0,
            "now" if number == 0 else "",
            f"{point.threshold:.6g}",
            wording.threshold_source(point.source.value, point.parameters),
            wording.moment(point.created_at),
            point.who,
            point.why,
        ]
        for number, point in enumerate(points)
    ]
    reporting.answer(
        {
            "dataset": model.dataset_name,
            "model_version": model.version,
            "point": points[0],
            "history": points,
        },
        as_json=as_json,
        text=f"Version {model.version} of '{model.dataset_name}' rejects above {points[0].threshold:.6g}.\n"
        + reporting.table(["point", "", "threshold", "how", "when", "who", "why"], rows),
    )
