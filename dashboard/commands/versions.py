"""Commands on the versions of a dataset: `simplenet dataset …`, the doctor, and withdrawing a champion."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dashboard.commands import corrections, reporting
from dashboard.commands.models import RoleName
from dashboard.commands.reporting import ExitCode, command
from dashboard.commands.selecting import find_version
from dashboard.errors import BadOption

if TYPE_CHECKING:
    from storage.records import DatasetVersion, ImageRecord

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
Name = Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")]
Number = Annotated[
    int | None, typer.Option("--version", help="Number of the version; the latest if not given.")
]
dataset = typer.Typer(
    help="Versions of a dataset: list, compare, correct, name, export, delete, restore.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    app.command()(doctor)
    app.command()(withdraw)
    app.add_typer(dataset, name="dataset")
    for name, function in {
        "versions": versions,
        "compare": compare,
        "pictures": pictures,
        "relabel": corrections.relabel,
        "mask": corrections.mask,
        "remove": corrections.remove,
        "edits": corrections.list_edits,
        "save": corrections.save,
        "discard": corrections.discard,
        "name": name_version,
        "export": export,
        "delete": delete,
        "restore": restore,
        "history": history,
    }.items():
        dataset.command(name=name)(function)


@command
def doctor(
    name: Name,
    number: Number = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Leave out doubtful labels and masks, which take about a minute for 2,000 pictures.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Examine a dataset before any training: copies, doubtful labels and masks, light, too few pictures, resizing."""
    from tuning.doctor import examine

    workspace = reporting.open_workspace()
    version = find_version(workspace, name, number)
    with reporting.progress_bar("Examining") as progress:
        findings = examine(workspace, version, quick=quick, progress=progress)
    with workspace.session() as session:
        from storage.datasets import list_images

        names = {image.pixel_digest: image.name for image in list_images(session, version.id)}
    texts = [f"Dataset '{name}', version {version.number}: {len(findings)} findings."]
    for finding in findings:
        texts.append(
            f"\n[{finding.severity}] {finding.title}: {finding.count:,}\n  {finding.why}\n  {finding.remedy}"
        )
        shown = [
            *finding.names,
            *(_line(names.get(picture.pixel_digest, "gone"), picture.note) for picture in finding.pictures),
        ]
        texts += [f"  - {one}" for one in shown[:10]]
        if finding.count > len(shown[:10]) > 0:
            texts.append(f"  and {finding.count - len(shown[:10]):,} more")
    reporting.answer(findings, as_json=as_json, text="\n".join(texts))


def _line(name: str, note: str) -> str:
    return note if name in note else ": ".join(part for part in (name, note) if part)


@command
def withdraw(
    name: Name, why: Annotated[str, typer.Option(help="The reason, kept with the history.")]
) -> None:
    """Take the champion of a dataset out of service; it can be promoted again."""
    from tuning.champion import current_user
    from tuning.commands import withdraw_champion

    model = withdraw_champion(reporting.open_workspace(), name, who=current_user(), why=why)
    text = (
        f"Model version {model.version} no longer serves; '{name}' has no champion until one is promoted.\n"
        f"Back again: simplenet promote {name} {model.version} --why REASON"
    )
    reporting.answer(None, as_json=False, text=text)


@command
def versions(name: Name, as_json: AsJson = False) -> None:
    """List the versions of a dataset and what each changed."""
    from storage import datasets

    workspace = reporting.open_workspace()
    with workspace.session() as session:
        found = datasets.list_versions(session, name)
    rows = [
        [
            one.number,
            one.title or "",
            f"{one.created_at:%Y-%m-%d %H:%M}",
            one.who or "–",
            one.count(),
            _change(one),
        ]
        for one in found
    ]
    header = ["version", "name", "made (UTC)", "by", "pictures", "change"]
    reporting.answer(found, as_json=as_json, text=reporting.table(header, rows))


@command
def compare(
    name: Name,
    before: Annotated[
        int | None, typer.Argument(min=1, help="Number of a version. Default: the one before AFTER.")
    ] = None,
    after: Annotated[
        int | None, typer.Argument(min=1, help="Number of another. Default: the latest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is different between two versions."""
    from tuning import versions

    workspace = reporting.open_workspace()
    later = find_version(workspace, name, after)
    if before is None and later.number == 1:
        raise BadOption(
            f"Version 1 of dataset '{name}' is the first; there is none before it. Give two numbers."
        )
    earlier = find_version(workspace, name, later.number - 1 if before is None else before)
    found = versions.compare(workspace, earlier, later)
    lines = [
        *(f"added: {image.name} ({_kind(image)})" for image in found.added),
        *(f"removed: {image.name} ({_kind(image)})" for image in found.removed),
        *(f"relabelled: {new.name}: {_kind(old)} → {_kind(new)}" for old, new in found.relabelled),
        *(f"{_mask_change(old, new)}: {new.name}" for old, new in found.remasked),
        *(f"another role: {new.name}: {old.role} → {new.role}" for old, new in found.moved),
    ]
    text = "\n".join(
        [f"Version {later.number} against version {earlier.number}:", *(lines or ["They hold the same."])]
    )
    reporting.answer(found, as_json=as_json, text=text)


@command
def pictures(
    name: Name,
    number: Number = None,
    role: Annotated[RoleName | None, typer.Option(help="Only pictures of this role.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the pictures of a version: the first digits of the pixel digest, role, label, mask and name."""
    from storage import datasets
    from storage.records import Role

    workspace = reporting.open_workspace()
    version = find_version(workspace, name, number)
    with workspace.session() as session:
        found = datasets.list_images(session, version.id, role=None if role is None else Role(role.value))
    rows = [
        [image.pixel_digest[:12], image.role, _kind(image), "mask" if image.mask_digest else "–", image.name]
        for image in found
    ]
    text = reporting.table(["digest", "role", "label", "mask", "picture"], rows)
    reporting.answer(found, as_json=as_json, text=text if found else "There is no picture of this role.")


@command
def name_version(
    name: Name,
    number: Annotated[int, typer.Argument(help="Number of the version.")],
    title: Annotated[str, typer.Argument(help="What to call it; empty takes the name away.")],
) -> None:
    """Call a version something that people remember."""
    from tuning.champion import current_user
    from tuning.commands import rename_version

    version = rename_version(reporting.open_workspace(), name, number, title, who=current_user())
    called = "has no name now" if version.title is None else f"is called '{version.title}'"
    reporting.answer(None, as_json=False, text=f"Version {version.number} of '{name}' {called}.")


@command
def export(
    name: Name,
    out: Annotated[Path, typer.Option(help="The zip file to write.", dir_okay=False)],
    number: Number = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a version as a zip in the layout of MVTec AD."""
    from tuning.export import export_version

    workspace = reporting.open_workspace()
    version = find_version(workspace, name, number)
    if out.exists() and not overwrite:
        raise BadOption(f"File '{out}' exists. Choose another name, or give --overwrite.")
    with reporting.progress_bar("Packing") as progress:
        size = export_version(workspace, version, out, progress=progress)
    text = f"{out}: version {version.number}, {version.count()} pictures, {size / 1e6:,.1f} MB."
    found = {"dataset": name, "version": version.number, "file": out, "bytes": size}
    reporting.answer(found, as_json=as_json, text=text)


@command
def delete(name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Set a dataset aside with all that is its; `restore` brings it back."""
    from storage.datasets import get_dataset
    from tuning.champion import current_user
    from tuning.commands import delete_dataset

    workspace = reporting.open_workspace()
    with workspace.session() as session:
        get_dataset(session, name)
    question = f"Delete dataset '{name}' with all its versions, studies and models? It can be restored."
    if not yes and not _sure(question):
        reporting.say(f"Dataset '{name}' was not deleted. To delete without being asked, give --yes.")
        raise typer.Exit(ExitCode.ERROR)
    delete_dataset(workspace, name, who=current_user())
    reporting.answer(None, as_json=False, text=f"Deleted. Undo: simplenet dataset restore {name}")


@command
def restore(name: Name) -> None:
    """Bring a deleted dataset back."""
    from tuning.champion import current_user
    from tuning.commands import restore_dataset

    restore_dataset(reporting.open_workspace(), name, who=current_user())
    reporting.answer(None, as_json=False, text=f"Dataset '{name}' is back.")


@command
def history(name: Name, as_json: AsJson = False) -> None:
    """Say who did what to a dataset, deleted or not; the newest first."""
    from storage import datasets
    from storage.events import list_events

    with reporting.open_workspace().session() as session:
        if not any(dataset.name == name for dataset in datasets.list_datasets(session, deleted=True)):
            datasets.get_dataset(session, name)
        found = list_events(session, name)
    text = "\n".join(f"{one.created_at:%Y-%m-%d %H:%M} {one.who}: {one.what}" for one in found)
    reporting.answer(found, as_json=as_json, text=text or "Nothing is recorded yet.")


def _sure(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # nobody is there to answer
        reporting.say("")
        return False


def _change(version: "DatasetVersion") -> str:
    return version.change or f"from {version.source}"


def _kind(image: "ImageRecord") -> str:
    return image.defect_type or image.label.value


def _mask_change(old: "ImageRecord", new: "ImageRecord") -> str:
    if old.mask_digest is None:
        return "mask added"
    return "mask taken away" if new.mask_digest is None else "another mask"
