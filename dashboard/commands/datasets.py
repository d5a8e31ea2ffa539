"""Commands on datasets: ingest, demo, datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dashboard import wording
from dashboard.commands import reporting
from dashboard.commands.reporting import command

if TYPE_CHECKING:
    from storage.records import Dataset
    from tuning.commands import IngestReport

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    app.command()(ingest)
    app.command()(demo)
    app.command(name="datasets")(list_datasets)


@command
def ingest(
    folder: Annotated[
        Path, typer.Argument(help="MVTec layout, or a plain folder of pictures of normal parts.")
    ],
    name: Annotated[str, typer.Option(help="Name of the dataset: small letters, digits and hyphens.")],
    as_json: AsJson = False,
) -> None:
    """Read a folder of pictures into a new version of a dataset.

    The folder is copied, never changed. Pictures that can not be used are listed and left out.
    """
    from tuning.commands import ingest_folder

    workspace = reporting.open_workspace()
    with reporting.progress_bar("Reading") as progress:
        report = ingest_folder(workspace, folder, name, progress=progress)
    _tell(report, as_json=as_json)


@command
def demo(
    if_empty: Annotated[
        bool,
        typer.Option(
            "--if-empty",
            help="Do nothing if there is another dataset or a study; else launch the first study as well.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Draw and ingest the demo dataset: brushed metal plates with scratches, dents, stains and missing holes."""
    from tuning.backbones import backbone_status
    from tuning.commands import load_demo, start_demo

    workspace = reporting.open_workspace()
    if if_empty:
        with reporting.progress_bar("Drawing") as progress:
            study = start_demo(workspace, progress=progress)
        text = "Nothing to do: there is a dataset or a study already."
        if study is not None:
            status = backbone_status(workspace)
            text = f"Study {study.id} launched. {wording.backbone(status.text, status.stronger)}"
        reporting.answer(study, as_json=as_json, text=text)
        return
    with reporting.progress_bar("Drawing") as progress:
        report = load_demo(workspace, progress=progress)
    _tell(report, as_json=as_json)


@command
def list_datasets(as_json: AsJson = False) -> None:
    """List the datasets with the counts of their latest version."""
    from storage import datasets

    workspace = reporting.open_workspace()
    with workspace.session() as session:
        found = datasets.list_datasets(session)
    text = reporting.table(
        ["name", "version", "pictures", "normal", "anomalous", "train", "calibration", "validation", "test"],
        [_row(dataset) for dataset in found],
    )
    if not found:
        text = "No dataset yet. Try `simplenet demo`, or `simplenet ingest FOLDER --name NAME`."
    reporting.answer(found, as_json=as_json, text=text)


def _row(dataset: "Dataset") -> list[object]:
    from storage.records import Label, Role

    version = dataset.latest
    if version is None:
        return [dataset.name, *["–"] * 8]
    by_label = [version.count(label=label) for label in Label]
    by_role = [
        version.count(role=role) for role in (Role.TRAIN, Role.CALIBRATION, Role.VALIDATION, Role.TEST)
    ]
    return [dataset.name, version.number, version.count(), *by_label, *by_role]


def _tell(report: "IngestReport", *, as_json: bool) -> None:
    version = report.version
    counts = ", ".join(f"{version.count(role=role)} {role.value}" for role in version.counts)
    text = (
        f"Dataset '{version.dataset_name}', version {version.number}: {version.count()} pictures ({counts})."
    )
    for note in report.notes:
        reporting.say(f"note: {note}")
    for skipped in report.skipped:
        reporting.say(f"left out: {skipped.name}: {skipped.reason}")
    text += f"\nNext: simplenet study {version.dataset_name}"
    as_plain: dict[str, Any] = {"version": version, "skipped": report.skipped, "notes": report.notes}
    reporting.answer(as_plain, as_json=as_json, text=text)
