"""Pictures that were uploaded to be scored and belong to no dataset (yet), kept so that pages can browse them like one.

A set of them is a file beside the maps of the model that scored them; the pictures' bytes lie in the store, their
scores and maps in the model's cache. So everything that is known of a picture of a dataset is known of these too, but
for a label.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.images import decode, pixel_digest
from engine.picture_files import page
from storage.atomic_files import write_file
from storage.records import Label, Model, Role
from storage.workspace import Workspace
from tuning.errors import BadPicture
from tuning.map_cache import map_cache
from tuning.reading import file_bytes

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class GivenPicture:
    """A picture that somebody gave to be scored, and what came of it."""

    name: str  # for people
    file: Path  # its bytes
    page: int | None = None  # of the file, from 1, where it has several
    score: float | None = None  # None where it should be scored when somebody looks at it
    anomaly_map: NDArray[np.float32] | None = None  # (H, W)


@dataclass(frozen=True, kw_only=True)
class UploadedPicture:
    """A picture of no dataset, as pages browse it."""

    id: str
    digest: str
    pixel_digest: str
    name: str
    height: int  # pixels
    width: int
    role: Role | None = None
    label: Label | None = None
    defect_type: str | None = None
    mask_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class UploadedSet:
    """Pictures that came together."""

    id: str
    title: str  # for people: 'parts.zip'
    pictures: tuple[UploadedPicture, ...]


def keep_set(
    workspace: Workspace, model: Model, set_id: str, title: str, given: Iterable[GivenPicture]
) -> UploadedSet:
    """Keep pictures for browsing under the model that scored them; the same set again replaces what was kept of it.

    Of pictures with the same pixels the first is kept.

    Args:
        set_id: lower-case letters, digits and hyphens; unique among the sets of a model.
    Raises:
        BadPicture: the id is none, or a file can't be read.
        BadImage: a picture can't be decoded.
    """
    cache = map_cache(workspace, model)
    pictures: dict[str, UploadedPicture] = {}
    for one in given:
        data = file_bytes(one.file, one.name)
        if one.page is not None:
            data = page(data, one.name, one.page)
        pixels = decode(data, one.name)
        digest = pixel_digest(pixels)
        if digest in pictures:
            continue
        if one.score is not None and one.anomaly_map is not None and cache.score(digest) is None:
            cache.put(digest, one.score, one.anomaly_map)
        pictures[digest] = UploadedPicture(
            id=digest[:16],
            digest=workspace.blobs.put(data),
            pixel_digest=digest,
            name=one.name,
            height=pixels.shape[0],
            width=pixels.shape[1],
        )
    made = UploadedSet(id=set_id, title=title, pictures=tuple(pictures.values()))
    values = {"title": title, "pictures": [asdict(picture) for picture in made.pictures]}
    file = _file(workspace, model, set_id)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, json.dumps(values).encode())
    return made


def list_sets(workspace: Workspace, model: Model) -> list[tuple[str, str]]:
    """Id and title of the sets that a model scored, the newest first."""
    folder = _folder(workspace, model)
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    return [(file.stem, str(json.loads(file.read_bytes())["title"])) for file in files]


def find_set(workspace: Workspace, model: Model, set_id: str) -> UploadedSet:
    """A set of uploaded pictures.

    Raises:
        BadPicture: the model has none of this id.
    """
    try:
        values = json.loads(_file(workspace, model, set_id).read_bytes())
    except FileNotFoundError:
        raise BadPicture(
            f"Version {model.version} of '{model.dataset_name}' has no uploaded pictures '{set_id}' any more. Upload "
            "them again on the page Score."
        ) from None
    pictures = tuple(UploadedPicture(**one) for one in values["pictures"])
    return UploadedSet(id=set_id, title=values["title"], pictures=pictures)


def forget_set(workspace: Workspace, model: Model, set_id: str) -> None:
    """Stop browsing a set; pictures that went into the dataset stay there."""
    _file(workspace, model, set_id).unlink(missing_ok=True)


def _folder(workspace: Workspace, model: Model) -> Path:
    # Not below the maps, which may be deleted at any time.
    return workspace.settings.home / "uploaded" / model.dataset_name / str(model.version)


def _file(workspace: Workspace, model: Model, set_id: str) -> Path:
    if not _ID.fullmatch(set_id):
        raise BadPicture(
            f"'{set_id}' is no name of uploaded pictures: lower-case letters, digits and hyphens."
        )
    return _folder(workspace, model) / f"{set_id}.json"
