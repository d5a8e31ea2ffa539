"""Commands on datasets: ingest, demo, datasets."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dashboard import wording
from dashboard.commands import reporting
from dashboard.commands.reporting import command
from engine.masks import MAX_THRESHOLD

if TYPE_CHECKING:
    from storage.records import Dataset, Remark
    from tuning.commands import IngestReport
    from tuning.sources import Source

GREY_TOLD = 3  # kinds of values in masks
AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    app.command()(ingest)
    app.command()(demo)
    app.command(name="datasets")(list_datasets)


@command
def ingest(
    path: Annotated[
        Path,
        typer.Argument(help="A folder, a zip or tar file, or the file of a manifest (CSV or JSON lines)."),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the dataset: small letters, digits and hyphens. Of several products in one folder, what "
            "stands before the name of each; without it they are called as their folders."
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Let the pictures replace those of the dataset's latest version, instead of being added to them. "
            "Former versions stay.",
        ),
    ] = False,
    normal: Annotated[
        str | None, typer.Option(help="Folder with the normal parts, where the folders' names don't say it.")
    ] = None,
    mask_threshold: Annotated[
        int, typer.Option(min=0, max=MAX_THRESHOLD, help="A value of a mask above it is a defect.")
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is understood of the folders; read no picture.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read pictures into a new version of a dataset; a folder of several products makes a dataset of each.

    The folder is copied, never changed. Pictures that can not be used are listed and left out.
    """
    from storage.datasets import check_dataset_name
    from tuning.champion import current_user
    from tuning.sources import ingest_source, open_source

    if name is not None:
        check_dataset_name(name)
    workspace = reporting.open_workspace()
    with (
        reporting.progress_bar("Reading") as progress,
        open_source(workspace, path, normal=normal, progress=progress.of_bytes) as source,
    ):
        if dry_run:
            _tell_understood(source, name, as_json=as_json)
            return
        for layout in source.layouts:
            if layout.unsure and normal is None:
                reporting.say(f"note: {layout.unsure} Say otherwise with --normal FOLDER.")
        reports = ingest_source(
            workspace,
            source,
            name,
            add=not replace,
            mask_threshold=mask_threshold,
            who=current_user(),
            progress=progress,
        )
    _tell(reports, as_json=as_json)


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
    _tell([report], as_json=as_json)


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


def _tell_understood(source: "Source", name: str | None, *, as_json: bool) -> None:
    from storage.layouts import groups

    found = {layout.name: groups(layout) for layout in source.layouts}
    texts = []
    for layout in source.layouts:
        rows = [
            [
                group.key,
                group.pictures,
                group.masks,
                group.split or "–",
                group.label,
                group.defect_type or "–",
            ]
            for group in found[layout.name]
        ]
        headings = ["where", "pictures", "masks", "split", "label", "defect type"]
        own = layout.name if name is None else f"{name}-{layout.name}" if len(source.layouts) > 1 else name
        texts.append(f"Dataset '{own}' ({layout.kind}):\n{reporting.table(headings, rows)}")
        texts += [f"note: {note}" for note in (*layout.notes, *([layout.unsure] if layout.unsure else []))]
        texts += [f"left out: {one.name}: {one.reason}" for one in layout.skipped]
    texts += [f"left out: {one.name}: {one.reason}" for one in source.refused]
    reporting.answer(found, as_json=as_json, text="\n".join(texts))


def _tell(reports: "Sequence[IngestReport]", *, as_json: bool) -> None:
    texts = []
    for report in reports:
        version = report.version
        counts = ", ".join(f"{version.count(role=role)} {role.value}" for role in version.counts)
        for note in report.notes:
            reporting.say(f"note: {note}")
        for skipped in report.skipped:
            reporting.say(f"left out: {skipped.name}: {skipped.reason}")
        for note in _grey_masks(report.remarks):
            reporting.say(f"note: {note}")
        said = f"Dataset '{version.dataset_name}', version {version.number}: {version.count()} pictures ({counts})."
        if not report.made:
            said = f"Nothing new: dataset '{version.dataset_name}' is as it was, version {version.number}."
        texts.append(
            f"{said}\nNext: simplenet doctor {version.dataset_name}, then simplenet study {version.dataset_name}"
        )
    as_plain: list[dict[str, Any]] = [
        {"version": report.version, "made": report.made, "skipped": report.skipped, "notes": report.notes}
        for report in reports
    ]
    reporting.answer(as_plain[0] if len(as_plain) == 1 else as_plain, as_json=as_json, text="\n".join(texts))


def _grey_masks(remarks: "Sequence[Remark]") -> list[str]:
    """What is to be known of masks that hold more than two values, the most common first."""
    texts = Counter(remark.text for remark in remarks if remark.kind == "grey mask")
    if not texts:
        return []
    said = [f"{wording.plural(count, 'picture')}: {text}" for text, count in texts.most_common(GREY_TOLD)]
    if len(texts) > GREY_TOLD:
        rest = sum(texts.values()) - sum(count for _, count in texts.most_common(GREY_TOLD))
        said.append(f"{wording.plural(rest, 'more picture')} with masks of other values")
    said[-1] += ". If another value divides them, ingest again with --mask-threshold VALUE."
    return said
