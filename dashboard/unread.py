"""Why a file that was chosen in a browser is never sent, and what to do about it."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from storage.names import shown
from storage.records import Skipped

LISTED = 1000  # of an upload's files that were not sent; the rest is counted

_DRAWING = "It is a drawing without pixels. Export it as PNG."
_PHOTO = "It is a photo of a kind that is not read here. Export it as PNG or JPEG."
_RAW = "It is a camera's raw file. Export it as PNG or TIFF."
_VIDEO = "It is a video. Export its frames as PNG."
_ARCHIVE = "It is an archive that is not read here. Pack the folder as .zip or .tar.gz."
_WORKBOOK = "It is a workbook. Save its table as CSV."
_DOCUMENT = "It is a document. Export its pictures as PNG."
REASONS = {
    **dict.fromkeys((".svg", ".eps", ".ai", ".dxf"), _DRAWING),
    **dict.fromkeys((".heic", ".heif", ".psd", ".dcm"), _PHOTO),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".orf", ".rw2"), _RAW),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv", ".wmv", ".webm"), _VIDEO),
    **dict.fromkeys((".rar", ".7z", ".gz", ".bz2", ".xz", ".zst"), _ARCHIVE),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), _WORKBOOK),
    **dict.fromkeys((".pdf", ".doc", ".docx", ".ppt", ".pptx"), _DOCUMENT),
}
OTHER = "It is no picture, table or archive. Leave it out, or save it as PNG if it is a picture."


def skipped(names: Sequence[str]) -> list[Skipped]:
    """Name and reason of files that were not sent, as a review tells them; of very many the first, and how many more.

    Args:
        names: as a browser tells them; they may hold anything.
    """
    told = [
        Skipped(name=shown(name)[1:-1], reason=REASONS.get(PurePosixPath(name).suffix.lower(), OTHER))
        for name in names[:LISTED]
    ]
    if len(names) > LISTED:
        more = len(names) - LISTED
        told.append(Skipped(name=f"{more:,} more", reason="They are no pictures, tables or archives either."))
    return told
