"""Commands on the versions of a dataset: `simplenet dataset …`, the doctor, and withdrawing a champion."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dashboard.commands import reporting
from dashboard.commands.reporting import command

if TYPE_CHECKING:
    from storage.records import DatasetVersion, ImageRecord
    from storage.workspace import Workspace

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
Name = Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")]
Number = Annotated[
    int | None, typer.Option("--version", help="Number of the version; the latest if not given.")
]
Pictures = Annotated[
    list[str], typer.Argument(metavar="PICTURE…", help="Names as `--json` lists them, or their ends.")
]
Save = Annotated[bool, typer.Option("--save", help="Save it as the next version at once.")]

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
        "relabel": relabel,
        "mask": mask,
        "remove": remove,
        "save": save,
        "discard": discard,
        "name": name_version,
        "export": export,
        "delete": delete,
        "restore": restore,
        "history": history,
    }.items():
        dataset.command(name=name)(function)


@command
def doctor(name: Name, number: Number = None, as_json: AsJson = False) -> None:
    """Examine a dataset before any training: copies, light, blur, masks, too few pictures, what a resize costs."""
    from tuning.doctor import examine

    workspace = reporting.open_workspace()
    version = _version(workspace, name, number)
    with reporting.progress_bar("Examining") as progress:
        findings = examine(workspace, version, progress=progress)
    with workspace.session() as session:
        from storage.datasets import list_images

        names = {image.pixel_digest: image.name for image in list_images(session, version.id)}
    texts = [f"Dataset '{name}', version {version.number}: {len(findings)} findings."]
    for finding in findings:
        texts.append(
            f"\n[{finding.severity}] {finding.count:,} {finding.title}\n  {finding.why}\n  {finding.remedy}"
        )
        shown = [
            *finding.names,
            *(picture.note or names[picture.pixel_digest] for picture in finding.pictures),
        ]
        texts += [f"  - {one}" for one in shown[:10]]
        if finding.count > len(shown[:10]) > 0:
            texts.append(f"  and {finding.count - len(shown[:10]):,} more")
    reporting.answer(findings, as_json=as_json, text="\n".join(texts))


@command
def withdraw(
    name: Name, why: Annotated[str, typer.Option(help="The reason, kept with the history.")]
) -> None:
    """Take the champion of a dataset out of service; it can be promoted again."""
    from tuning.champion import current_user
    from tuning.commands import withdraw_champion

    model = withdraw_champion(reporting.open_workspace(), name, who=current_user(), why=why)
    reporting.answer(None, as_json=False, text=f"Model version {model.version} of '{name}' no longer serves.")


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
    before: Annotated[int, typer.Argument(help="Number of a version.")],
    after: Annotated[int, typer.Argument(help="Number of another.")],
    as_json: AsJson = False,
) -> None:
    """Say what is different between two versions."""
    from tuning import versions

    workspace = reporting.open_workspace()
    found = versions.compare(workspace, _version(workspace, name, before), _version(workspace, name, after))
    lines = [
        *(f"added: {image.name}" for image in found.added),
        *(f"removed: {image.name}" for image in found.removed),
        *(f"relabelled: {new.name}: {_kind(old)} → {_kind(new)}" for old, new in found.relabelled),
        *(f"another mask: {new.name}" for _, new in found.remasked),
        *(f"another role: {new.name}: {old.role} → {new.role}" for old, new in found.moved),
    ]
    reporting.answer(found, as_json=as_json, text="\n".join(lines) or "They hold the same.")


@command
def relabel(
    name: Name,
    pictures: Pictures,
    normal: Annotated[bool, typer.Option("--normal/--anomalous", help="What they are.")],
    defect_type: Annotated[str | None, typer.Option("--type", help="Defect type of anomalous ones.")] = None,
    save_now: Save = False,
) -> None:
    """Correct the label of pictures; `simplenet dataset save` makes it the next version."""
    from storage.records import Label
    from tuning.corrections import relabelled

    workspace = reporting.open_workspace()
    label = Label.NORMAL if normal else Label.ANOMALOUS
    _put(
        workspace,
        name,
        relabelled(_pictures(workspace, name, pictures), label, defect_type),
        save_now=save_now,
    )


@command
def mask(
    name: Name,
    picture: Annotated[str, typer.Argument(help="Name of an anomalous picture, or its end.")],
    file: Annotated[
        Path, typer.Argument(help="The mask; black where the part is as it should be.", exists=True)
    ],
    save_now: Save = False,
) -> None:
    """Replace the mask of a picture."""
    from tuning.corrections import masked

    workspace = reporting.open_workspace()
    (image,) = _pictures(workspace, name, [picture])
    _put(workspace, name, [masked(workspace, image, file.read_bytes(), file.name)], save_now=save_now)


@command
def remove(name: Name, pictures: Pictures, save_now: Save = False) -> None:
    """Take pictures out of the next version; former versions keep them."""
    from storage.records import Edit

    workspace = reporting.open_workspace()
    found = _pictures(workspace, name, pictures)
    _put(
        workspace,
        name,
        [Edit(pixel_digest=image.pixel_digest, remove=True) for image in found],
        save_now=save_now,
    )


@command
def save(name: Name) -> None:
    """Make the waiting corrections the next version."""
    _save(reporting.open_workspace(), name)


@command
def discard(name: Name) -> None:
    """Forget the waiting corrections."""
    from storage.edits import discard_edits

    with reporting.open_workspace().session() as session:
        discard_edits(session, name)
    reporting.answer(None, as_json=False, text="Forgotten.")


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
    reporting.answer(None, as_json=False, text=f"Version {version.number} is called '{version.title or ''}'.")


@command
def export(
    name: Name,
    out: Annotated[Path, typer.Option(help="The zip file to write.", dir_okay=False)],
    number: Number = None,
) -> None:
    """Write a version as a zip in the layout of MVTec AD."""
    from tuning.export import export_version

    workspace = reporting.open_workspace()
    version = _version(workspace, name, number)
    with reporting.progress_bar("Packing") as progress:
        size = export_version(workspace, version, out, progress=progress)
    text = f"{out}: version {version.number}, {version.count()} pictures, {size / 1e6:,.1f} MB."
    reporting.answer(None, as_json=False, text=text)


@command
def delete(name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Set a dataset aside with all that is its; `restore` brings it back."""
    from storage.datasets import get_dataset
    from tuning.champion import current_user
    from tuning.commands import delete_dataset

    workspace = reporting.open_workspace()
    with workspace.session() as session:
        get_dataset(session, name)
    if not yes:
        typer.confirm(
            f"Delete dataset '{name}' with all its versions, studies and models? It can be restored.",
            abort=True,
        )
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
    """Say who did what to a dataset."""
    from storage.events import list_events

    with reporting.open_workspace().session() as session:
        found = list_events(session, name)
    text = "\n".join(f"{one.created_at:%Y-%m-%d %H:%M} {one.who}: {one.what}" for one in found)
    reporting.answer(found, as_json=as_json, text=text or "Nothing is recorded yet.")


def _version(workspace: "Workspace", name: str, number: int | None) -> "DatasetVersion":
    from storage import datasets

    with workspace.session() as session:
        if number is None:
            return datasets.latest_version(session, name)
        return datasets.numbered_version(session, name, number)


def _pictures(workspace: "Workspace", name: str, wanted: Sequence[str]) -> "list[ImageRecord]":
    """The pictures of the latest version that are called so, or whose names end so."""
    from dashboard.errors import BadOption
    from storage import datasets

    with workspace.session() as session:
        images = datasets.list_images(session, datasets.latest_version(session, name).id)
    found = []
    for one in wanted:
        fitting = [image for image in images if image.name == one] or [
            image for image in images if image.name.endswith(f"/{one}")
        ]
        if not fitting:
            near = difflib.get_close_matches(one, [image.name for image in images], n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise BadOption(
                f"Dataset '{name}' has no picture '{one}'.{hint} `simplenet dataset export` lists all."
            )
        if len(fitting) > 1:
            names = ", ".join(f"'{image.name}'" for image in fitting[:5])
            raise BadOption(f"'{one}' may be {names}. Give more of the name.")
        found.append(fitting[0])
    return found


def _put(workspace: "Workspace", name: str, wanted: Sequence[Any], *, save_now: bool) -> None:
    from storage.edits import put_edits
    from storage.records import now
    from tuning.champion import current_user

    with workspace.session() as session:
        put_edits(session, name, wanted, who=current_user(), now=now())
    if save_now:
        _save(workspace, name)
        return
    reporting.answer(
        None, as_json=False, text=f"{len(wanted)} corrections wait. Next: simplenet dataset save {name}"
    )


def _save(workspace: "Workspace", name: str) -> None:
    from tuning.champion import current_user
    from tuning.versions import save_edits

    version = save_edits(workspace, name, who=current_user())
    reporting.answer(
        None, as_json=False, text=f"Dataset '{name}', version {version.number}: {version.change}."
    )


def _change(version: "DatasetVersion") -> str:
    return version.change or f"from {version.source}"


def _kind(image: "ImageRecord") -> str:
    return image.defect_type or image.label.value
