"""Which version and which pictures the arguments of a command mean."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.records import DatasetVersion, ImageRecord
    from storage.workspace import Workspace


def find_version(workspace: "Workspace", name: str, number: int | None) -> "DatasetVersion":
    """The version of a number, or the latest.

    Raises:
        DatasetNotFound, VersionNotFound: there is none.
    """
    from storage import datasets

    with workspace.session() as session:
        if number is None:
            return datasets.latest_version(session, name)
        return datasets.numbered_version(session, name, number)


def find_images(workspace: "Workspace", name: str, wanted: Sequence[str]) -> "list[ImageRecord]":
    """The pictures of the latest version that `wanted` names; see `tuning.picture_names.find_pictures`.

    Raises:
        DatasetNotFound, VersionNotFound, PictureNotFound: there is none.
        AmbiguousPicture: a name fits several.
    """
    from storage import datasets
    from tuning.picture_names import find_pictures

    with workspace.session() as session:
        images = datasets.list_images(session, datasets.latest_version(session, name).id)
    return find_pictures(images, wanted)
