"""Files that somebody gave us: the name they came under, and where their bytes lie."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of a folder, an archive or an upload."""

    name: str  # relative, with forward slashes: 'test/scratch/007.png'; never used as a path
    path: Path  # where its bytes lie, whatever it is called there
