"""Small copies of pictures on disk, so that a page of many pictures never decodes the originals twice."""

import base64
import io
import os
import tempfile
from pathlib import Path

from PIL import Image

from engine.images import decode
from storage.workspace import Workspace

SIDE = 192  # pixels of the longer side: twice the grid's tile, for dense displays
QUALITY = 82  # JPEG


def thumbnail(workspace: Workspace, digest: str, name: str) -> bytes:
    """JPEG bytes of a small copy of the picture `digest`, from disk or made now.

    Raises:
        BlobMissing: the picture is not in the store.
        BadImage: it can not be decoded.
    """
    file = workspace.settings.home / "thumbnails" / digest[:2] / f"{digest}-{SIDE}.jpg"
    if file.exists():
        return file.read_bytes()
    data = shrunk(Image.fromarray(decode(workspace.blobs.get(digest), name)))
    _write_whole(file, data)
    return data


def shrunk(picture: Image.Image, side: int = SIDE) -> bytes:
    """JPEG bytes of `picture` with its longer side at most `side` pixels."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def data_url(data: bytes, kind: str = "jpeg") -> str:
    """The bytes of a small picture as an address that a browser draws without asking anybody."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _write_whole(file: Path, data: bytes) -> None:
    """Write under another name first: a page beside this one never reads half a picture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    with os.fdopen(handle, "wb") as out:
        out.write(data)
    Path(temporary).replace(file)
