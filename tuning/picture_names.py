"""Which pictures of a version a person means by the names that they typed."""

import difflib
from collections import defaultdict
from collections.abc import Sequence

from storage.records import ImageRecord
from tuning.errors import AmbiguousPicture, PictureNotFound

MIN_DIGEST = 8  # characters of a pixel digest that stand for a picture
_CANDIDATES = 5  # named where a name fits several


def find_pictures(images: Sequence[ImageRecord], names: Sequence[str]) -> list[ImageRecord]:
    """Find pictures by name, by the end of their name from any folder on, or by the first digits of their digest.

    Args:
        names: 'test/scratch/007.png', 'scratch/007.png', '007.png' or '3fa0b1c2'; the whole name counts first.
    Returns:
        Each picture once, in the order of `names`.
    Raises:
        PictureNotFound: nothing fits a name; the message gives the nearest.
        AmbiguousPicture: several pictures fit; the message lists them with their digests.
    """
    by_ending: dict[str, list[ImageRecord]] = defaultdict(list)
    for image in images:
        parts = image.name.split("/")
        for start in range(len(parts)):
            by_ending["/".join(parts[start:])].append(image)
    return list(dict.fromkeys(_find(images, by_ending, name) for name in names))


def _find(images: Sequence[ImageRecord], by_ending: dict[str, list[ImageRecord]], name: str) -> ImageRecord:
    ending = by_ending.get(name, [])
    fitting = [image for image in ending if image.name == name] or ending
    if not fitting and len(name) >= MIN_DIGEST:
        fitting = [image for image in images if image.pixel_digest.startswith(name.lower())]
    if not fitting:
        raise PictureNotFound(_not_found(images, name))
    if len(fitting) > 1:
        listed = ", ".join(f"{image.name} ({image.pixel_digest[:12]})" for image in fitting[:_CANDIDATES])
        more = f" and {len(fitting) - _CANDIDATES} more" if len(fitting) > _CANDIDATES else ""
        raise AmbiguousPicture(
            f"Picture name '{name}' fits {len(fitting)} pictures: {listed}{more}. Give more of the name, or the digits "
            "in brackets."
        )
    return fitting[0]


def _not_found(images: Sequence[ImageRecord], name: str) -> str:
    # Files are compared first: folders in front of them make all names alike.
    files = {image.name.rpartition("/")[2]: image.name for image in images}
    nearest = difflib.get_close_matches(name.rpartition("/")[2], files, n=1)
    whole = difflib.get_close_matches(name, [image.name for image in images], n=1) or [
        files[file] for file in nearest
    ]
    question = f" Did you mean '{whole[0]}'?" if whole else ""
    return f"There is no picture '{name}' among {len(images)}.{question} `simplenet dataset pictures` lists them all."
