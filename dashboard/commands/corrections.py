"""Commands that correct pictures: dataset relabel, mask, remove, edits, save, discard."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dashboard import wording
from dashboard.commands import reporting
from dashboard.commands.reporting import command
from dashboard.commands.selecting import find_images
from dashboard.errors import BadOption
from engine.masks import MAX_THRESHOLD

if TYPE_CHECKING:
    from storage.records import Edit
    from storage.workspace import Workspace

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
Name = Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")]
_PICTURES = "Names as `simplenet dataset pictures` lists them, or ends of names, or digits of digests."
Pictures = Annotated[list[str], typer.Argument(metavar="PICTURE…", help=_PICTURES)]
Save = Annotated[bool, typer.Option("--save", help="Save it and all that waits as the next version at once.")]


@command
def relabel(
    name: Name,
    pictures: Pictures,
    normal: Annotated[
        bool | None,
        typer.Option(
            "--normal/--anomalous", help="What they are. Default: anomalous, where --type is given."
        ),
    ] = None,
    defect_type: Annotated[str | None, typer.Option("--type", help="Defect type of anomalous ones.")] = None,
    save_now: Save = False,
) -> None:
    """Correct the label of pictures; `simplenet dataset save` makes it the next version."""
    from storage.records import Label
    from tuning.corrections import relabelled

    if normal is None and defect_type is None:
        raise BadOption("Nothing to change: give --normal, --anomalous, or --type with a defect type.")
    if normal and defect_type:
        raise BadOption(f"--normal and --type '{defect_type}' exclude each other. Give one of them.")
    workspace = reporting.open_workspace()
    label = Label.NORMAL if normal else Label.ANOMALOUS
    wanted = relabelled(find_images(workspace, name, pictures), label, defect_type)
    _put(workspace, name, wanted, save_now=save_now)


@command
def mask(
    name: Name,
    picture: Annotated[str, typer.Argument(help="Name of an anomalous picture, or its end.")],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="The mask; black where the part is as it should be.", exists=True, dir_okay=False
        ),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Take the mask away.")] = False,
    threshold: Annotated[
        int,
        typer.Option("--mask-threshold", min=0, max=MAX_THRESHOLD, help="Values above it are the defect."),
    ] = 0,
    save_now: Save = False,
) -> None:
    """Replace the mask of a picture, or take it away."""
    from storage.records import Edit
    from tuning.corrections import masked

    if (file is None) is not none:
        raise BadOption("A mask is given by FILE, or taken away by --none. Give one of the two.")
    workspace = reporting.open_workspace()
    (image,) = find_images(workspace, name, [picture])
    edit = Edit(pixel_digest=image.pixel_digest, mask_digest="")
    if file is not None:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise BadOption(
                f"Mask '{file}' can't be read: {error.strerror}. Check its permissions."
            ) from error
        edit = masked(workspace, image, data, file.name, threshold=threshold)
    _put(workspace, name, [edit], save_now=save_now)


@command
def remove(name: Name, pictures: Pictures, save_now: Save = False) -> None:
    """Take pictures out of the next version; former versions keep them."""
    from storage.records import Edit

    workspace = reporting.open_workspace()
    found = find_images(workspace, name, pictures)
    wanted = [Edit(pixel_digest=image.pixel_digest, remove=True) for image in found]
    _put(workspace, name, wanted, save_now=save_now)


@command
def list_edits(name: Name, as_json: AsJson = False) -> None:
    """List the corrections that wait to be saved."""
    from tuning.versions import preview_edits

    found = preview_edits(reporting.open_workspace(), name)
    text = "\n".join(f"{one.name}: {one.before} → {one.after}" for one in found)
    reporting.answer(found, as_json=as_json, text=text or f"No correction of dataset '{name}' waits.")


@command
def save(
    name: Name,
    after: Annotated[
        int | None,
        typer.Option(
            metavar="VERSION", min=1, help="Refuse if another version than this is the latest by now."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the waiting corrections the next version."""
    _save(reporting.open_workspace(), name, after=after, as_json=as_json)


@command
def discard(
    name: Name,
    pictures: Annotated[
        list[str] | None, typer.Argument(metavar="[PICTURE…]", help=f"Default: all. {_PICTURES}")
    ] = None,
) -> None:
    """Forget waiting corrections."""
    from storage import edits

    workspace = reporting.open_workspace()
    digests = None
    if pictures:
        digests = [image.pixel_digest for image in find_images(workspace, name, pictures)]
    with workspace.session() as session:
        before = len(edits.list_edits(session, name))
        edits.discard_edits(session, name, digests)
        number = before - len(edits.list_edits(session, name))
    reporting.answer(None, as_json=False, text=f"{wording.plural(number, 'correction')} forgotten.")


def _put(workspace: "Workspace", name: str, wanted: "Sequence[Edit]", *, save_now: bool) -> None:
    from tuning.champion import current_user
    from tuning.corrections import put

    number = put(workspace, name, wanted, who=current_user())
    if not number:
        reporting.answer(None, as_json=False, text="That is how it is already.")
    elif save_now:
        _save(workspace, name, after=None, as_json=False)
    else:
        text = f"{wording.plural(number, 'correction')} taken down. Next: simplenet dataset save {name}"
        reporting.answer(None, as_json=False, text=text)


def _save(workspace: "Workspace", name: str, *, after: int | None, as_json: bool) -> None:
    from tuning.champion import current_user
    from tuning.versions import save_edits

    version = save_edits(workspace, name, who=current_user(), after=after)
    text = f"Dataset '{name}', version {version.number}: {version.change or 'as it was'}."
    reporting.answer(version, as_json=as_json, text=text)
