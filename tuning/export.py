"""A dataset version as a zip in the layout of MVTec AD, for other tools and for keeping."""

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from storage import datasets
from storage.atomic_files import temporary_beside
from storage.errors import BadName, DiskFull
from storage.names import check_name, folded
from storage.records import DatasetVersion, ImageRecord, Label, Role
from storage.workspace import Workspace

Progress = Callable[[int, int, str], None]
FORMATS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}
DATE = (1980, 1, 1, 0, 0, 0)  # the same version gives the same archive


def export_version(
    workspace: Workspace, version: DatasetVersion, out: Path, *, progress: Progress | None = None
) -> int:
    """Write train/good, test/good, test/<type>, ground_truth/<type>/<name>_mask.png, and a table of all in roles.txt.

    Pictures and masks go in byte for byte, one at a time. The file appears whole, or not at all.

    Returns:
        Its size in bytes.
    Raises:
        DiskFull: there is no room for it.
        BlobMissing: a picture is gone or damaged.
    """
    with workspace.session() as session:
        images = datasets.list_images(session, version.id)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(out)
    names = _Names()
    rows = io.StringIO()
    table = csv.writer(rows)
    table.writerow(["file", "name", "role", "label", "defect type", "sha256", "sha256 of pixels"])
    try:
        with zipfile.ZipFile(temporary, "x", zipfile.ZIP_STORED) as archive:
            for done, image in enumerate(images):
                if progress is not None:
                    progress(done, len(images), image.name)
                data = workspace.blobs.get(image.digest)
                folder = _folder(image)
                stem = names.free(folder, PurePosixPath(image.name).name)
                name = f"{folder}/{stem}{_suffix(data)}"
                archive.writestr(zipfile.ZipInfo(name, DATE), data)
                kind = image.defect_type or ""
                table.writerow(
                    [
                        name,
                        image.name,
                        image.role.value,
                        image.label.value,
                        kind,
                        image.digest,
                        image.pixel_digest,
                    ]
                )
                if image.mask_digest is not None:
                    mask = f"ground_truth/{folder.split('/')[1]}/{stem}_mask.png"
                    archive.writestr(zipfile.ZipInfo(mask, DATE), workspace.blobs.get(image.mask_digest))
            # Not .csv: a list of pictures would decide over the folders when the archive is read again.
            archive.writestr(zipfile.ZipInfo("roles.txt", DATE), rows.getvalue())
        temporary.replace(out)
    except OSError as error:
        raise DiskFull(
            f"Archive '{out}' can't be written: {error.strerror}. Free some space and try again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return out.stat().st_size


def _folder(image: ImageRecord) -> str:
    if image.label is Label.NORMAL:
        return "train/good" if image.role in (Role.TRAIN, Role.CALIBRATION) else "test/good"
    kind = re.sub(r"[^\w.-]+", "_", image.defect_type or "anomalous").strip("._") or "anomalous"
    return f"test/{kind}_defect" if folded(kind) in ("good", "normal", "ok") else f"test/{kind}"


def _suffix(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for magic, suffix in FORMATS.items() if data.startswith(magic)), ".img")


class _Names:
    """Names that no computer takes for one another, within a folder."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()

    def free(self, folder: str, wanted: str) -> str:
        stem = re.sub(r"[^\w .-]+", "_", wanted.replace("#", "_page_")).rpartition(".")[0] or "picture"
        try:
            check_name(f"{stem}.png")
        except BadName:
            stem = f"picture_{stem[:60].strip(' .')}"
        candidate, number = stem, 1
        while self._used[folded(f"{folder}/{candidate}")]:
            number += 1
            candidate = f"{stem}_{number}"
        self._used[folded(f"{folder}/{candidate}")] += 1
        return candidate
