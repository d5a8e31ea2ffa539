"""Why a file in a format that is not read is left out, and what to do about it."""

from pathlib import PurePosixPath

_DRAWING = "It is a drawing without pixels. Export it as PNG."
_PHOTO = "It is a photo of a kind that is not read here. Export it as PNG or JPEG."
_RAW = "It is a camera's raw file. Export it as PNG or TIFF."
_GIF = "It is a GIF, of few colours and often animated. Save what it shows as PNG."
_VIDEO = "It is a video. Export its frames as PNG."
_ARCHIVE = "It is an archive that is not read here. Pack the folder as .zip or .tar.gz."
_WORKBOOK = "It is a workbook. Save its table as CSV."
_DOCUMENT = "It is a document. Export its pictures as PNG."
REASONS = {
    **dict.fromkeys((".svg", ".eps", ".ai", ".dxf"), _DRAWING),
    **dict.fromkeys((".heic", ".heif", ".psd", ".dcm"), _PHOTO),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".orf", ".rw2"), _RAW),
    ".gif": _GIF,
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv", ".wmv", ".webm"), _VIDEO),
    **dict.fromkeys((".rar", ".7z", ".gz", ".bz2", ".xz", ".zst"), _ARCHIVE),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), _WORKBOOK),
    **dict.fromkeys((".pdf", ".doc", ".docx", ".ppt", ".pptx"), _DOCUMENT),
}
_PICTURE = "It is a picture of a kind that is not read here. Save it as PNG."


def reason(name: str) -> str:
    """One sentence or two about a picture that is none for our reader, by its suffix."""
    return REASONS.get(PurePosixPath(name).suffix.lower(), _PICTURE)
