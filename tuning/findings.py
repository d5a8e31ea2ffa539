"""What the dataset doctor says: findings, the pictures they are about, and what one click corrects."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from storage import checkups
from storage.records import Edit, ImageRecord, Label

Severity = Literal["serious", "look", "note"]
Fix = Literal["remove", "unmask", "normal", "anomalous"]


@dataclass(frozen=True, kw_only=True)
class FindingPicture:
    """A picture that a finding is about."""

    pixel_digest: str
    note: str = ""
    other: str | None = None  # pixel digest of the picture that it is like


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to know, in the words of a doctor's letter."""

    kind: str
    severity: Severity
    title: str
    why: str
    remedy: str
    count: int
    pictures: tuple[FindingPicture, ...] = ()
    names: tuple[str, ...] = ()  # of files that are in no version, the first of them
    fix: Fix | None = None  # what one click does to a picture


def read_findings(checkup: checkups.Checkup) -> tuple[Finding, ...]:
    """What `examine` found, as it was kept."""
    return tuple(
        Finding(
            **{
                **values,
                "pictures": tuple(FindingPicture(**one) for one in values["pictures"]),
                "names": tuple(values["names"]),
            }
        )
        for values in checkup.findings["findings"]
    )


def correction(finding: Finding, picture: FindingPicture) -> Edit | None:
    """What one click does to a picture of a finding; None where a person must decide."""
    if finding.fix == "remove":
        return Edit(pixel_digest=picture.pixel_digest, remove=True)
    if finding.fix == "unmask":
        return Edit(pixel_digest=picture.pixel_digest, mask_digest="")
    if finding.fix is not None:
        return Edit(pixel_digest=picture.pixel_digest, label=Label(finding.fix))
    return None


def subject(picture: FindingPicture) -> str:
    """What an acceptance is about: the picture, or the pair that is alike."""
    return picture.pixel_digest + (f"+{picture.other}" if picture.other else "")


def open_pictures(finding: Finding, accepted: Container[tuple[str, str]]) -> list[FindingPicture]:
    """The pictures of a finding that nobody has accepted.

    Args:
        accepted: (kind, subject) of what was, as `storage.checkups.accepted_findings` tells.
    """
    return [picture for picture in finding.pictures if (finding.kind, subject(picture)) not in accepted]


def is_open(finding: Finding, accepted: Container[tuple[str, str]]) -> bool:
    """Whether a finding still waits for a person: neither it nor all of its pictures were accepted."""
    if (finding.kind, "") in accepted:
        return False
    return not finding.pictures or bool(open_pictures(finding, accepted))


def about(images: Sequence[ImageRecord], **words: Any) -> list[Finding]:
    """A finding about these images, in a list; none where there are none.

    Args:
        words: the other fields of `Finding`.
    """
    return found([FindingPicture(pixel_digest=image.pixel_digest) for image in images], **words)


def found(pictures: Sequence[FindingPicture], **words: Any) -> list[Finding]:
    """A finding about these pictures, the most important first, in a list; none where there are none.

    Args:
        words: the other fields of `Finding`.
    """
    return [Finding(count=len(pictures), pictures=tuple(pictures), **words)] if pictures else []
