"""The dataset doctor: what is wrong with the pictures of a version, why it matters, and what to do.

`python -m tuning.doctor VERSION_ID` examines a version as a job in the background.
"""

import logging
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from engine.errors import EngineError
from engine.geometry import in_view
from engine.images import decode, decode_mask
from engine.inspection import SIGNATURE_SIDE, measure, near_duplicates, outliers
from storage import checkups, datasets
from storage.errors import BlobMissing
from storage.ingests import dataset_remarks, get_ingest
from storage.measures import Measured, put_measures, version_measures
from storage.records import DatasetVersion, ImageRecord, Label, Role, now
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tuning import jobs
from tuning.findings import Finding, FindingPicture, about, found
from tuning.ingest import COPY_OF
from tuning.jobs import Job, Progress

MODULE = "tuning.doctor"
FAR_OUT = 6.0  # robust standard deviations; of 10,000 normal values none lies there by chance
CALIBRATION_FOR = ((19, "5 %"), (99, "1 %"))  # pictures that guarantee a false-reject rate
FEW_OF_A_TYPE = 4  # fewer pictures of a defect type judge nothing by themselves
FEW_HELD_OUT = 10  # normal pictures, below which validation or test say little
STUDY_SIDE = 256  # pixels of the canvas that a study takes by default
NAMES_TOLD = 200  # of files that were left out; the report of the ingest has all
_STAYING_FIRST = (Role.TRAIN, Role.CALIBRATION, Role.VALIDATION, Role.TEST)
SMALLEST_DEFECT = 4  # pixels on that canvas
STRETCH = 1.5  # of one side against the other, from which on squashing distorts


def examine(
    workspace: Workspace, version: DatasetVersion, *, quick: bool = False, progress: Progress | None = None
) -> tuple[Finding, ...]:
    """Examine a version and keep what was found; what was found without comparing pictures already before that.

    Args:
        quick: leave out what compares each picture with the normal ones, which takes a minute for 2,000.
    Raises:
        VersionNotFound: there is no such version.
    """
    with workspace.session() as session:
        images = datasets.list_images(session, version.id)
        skipped = get_ingest(session, version.id).skipped
        remarks = dataset_remarks(session, version.dataset_name)
        measures = version_measures(session, version.id)
    stored = workspace.blobs.sizes(image.digest for image in images)
    missing = [image for image in images if image.digest not in stored]
    gone = {image.pixel_digest for image in missing}
    here = [image for image in images if image.pixel_digest not in gone]
    measures = _completed(workspace, here, measures, progress)
    measured = [image for image in here if image.pixel_digest in measures]
    findings = [
        *_missing(missing, workspace.blobs.where),
        *_left_out([(one.name, one.reason) for one in skipped]),
        *_copies(measured, measures, progress),
        *_light(measured, measures),
        *_sizes(images),
        *_masks(workspace, here, {one.pixel_digest for one in remarks if one.kind == "empty mask"}, progress),
        *_too_few(version),
        *_balance(images),
        *_shape(images),
    ]
    kept = _keep(workspace, version, findings)
    if quick:
        return kept
    from tuning.doubts import doubts  # only here: a page that shows findings need not wait for torch

    return _keep(workspace, version, [*doubts(workspace, here, progress), *findings])


def _keep(workspace: Workspace, version: DatasetVersion, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order = {"serious": 0, "look": 1, "note": 2}
    ordered = tuple(sorted(findings, key=lambda finding: order[finding.severity]))
    with workspace.session() as session:
        plain = {"findings": [asdict(finding) for finding in ordered]}
        checkups.put_checkup(session, version.id, plain, now=now())
    return ordered


def job_key(version_id: int) -> str:
    """Key of the job that examines a version."""
    return f"doctor-{version_id}"


def start_examination(workspace: Workspace, version_id: int) -> Job:
    """Examine a version in the background."""
    return jobs.start(workspace.settings, job_key(version_id), MODULE, [str(version_id)])


def _completed(
    workspace: Workspace,
    images: Sequence[ImageRecord],
    known: Mapping[str, Measured],
    progress: Progress | None,
) -> dict[str, Measured]:
    """Measures of all images: those read by an older program are measured now."""
    lacking = [image for image in images if image.pixel_digest not in known]
    new = {}
    for done, image in enumerate(lacking):
        if progress is not None:
            progress(done, len(lacking), f"measuring {image.name}")
        try:
            values = asdict(measure(decode(workspace.blobs.get(image.digest), image.name)))
        except (EngineError, BlobMissing):
            continue
        new[image.pixel_digest] = Measured(signature=values.pop("signature"), values=values)
    with workspace.session() as session:
        put_measures(session, new)
    return {**known, **new}


def _missing(images: Sequence[ImageRecord], place: str) -> list[Finding]:
    return about(
        images,
        kind="missing",
        severity="serious",
        title="pictures whose file is gone",
        why="Studies of this version will fail, and no heatmap can be drawn.",
        remedy=f"Restore {place} from a backup, or add the same pictures again.",
    )


def _left_out(skipped: Sequence[tuple[str, str]]) -> list[Finding]:
    copies = [name for name, reason in skipped if reason.startswith(COPY_OF)]
    others = [f"{name}: {reason}" for name, reason in skipped if not reason.startswith(COPY_OF)]
    findings = []
    if others:
        findings.append(
            Finding(
                kind="left-out",
                severity="look",
                title="files that could not be used",
                why="They are not in the version: nothing is trained or judged on them.",
                remedy="Each line says what is wrong. Mend the files and add them again.",
                count=len(others),
                names=tuple(others[:NAMES_TOLD]),
            )
        )
    if copies:
        findings.append(
            Finding(
                kind="copies",
                severity="note",
                title="exact copies left out",
                why="A picture that stands in training and in test makes figures look better than they are.",
                remedy="Nothing needs to be done: one of each is kept, in one role.",
                count=len(copies),
                names=tuple(copies[:NAMES_TOLD]),
            )
        )
    return findings


def _copies(
    images: Sequence[ImageRecord], measures: Mapping[str, Measured], progress: Progress | None
) -> list[Finding]:
    if progress is not None:
        progress(0, 0, "comparing all pictures")
    side = SIGNATURE_SIDE
    # A copy is told with the first picture it is like: of two, the one that is trained on stays.
    images = sorted(images, key=lambda image: _STAYING_FIRST.index(image.role))
    signatures = np.stack(
        [np.frombuffer(measures[one.pixel_digest].signature, np.uint8).reshape(side, side) for one in images]
        or [np.zeros((side, side), np.uint8)]
    )
    across: list[FindingPicture] = []
    within: list[FindingPicture] = []
    for first, second, _ in near_duplicates(signatures[: len(images)]):
        kept, copy = images[first], images[second]
        leaks = kept.role in (Role.TRAIN, Role.CALIBRATION) and kept.role is not copy.role
        picture = FindingPicture(
            pixel_digest=copy.pixel_digest,
            note=f"like {kept.name} ({kept.role})",
            other=kept.pixel_digest,
        )
        (across if leaks else within).append(picture)
    return [
        *found(
            across,
            kind="near-copies-across",
            severity="serious",
            title="near copies in different roles",
            why="The model is judged by a picture that it was trained on: figures are better than the truth.",
            remedy="Take the first of each pair out, or accept that they are two parts.",
            fix="remove",
        ),
        *found(
            within,
            kind="near-copies",
            severity="look",
            title="near copies within training or within judging",
            why="The same photograph counts twice.",
            remedy="Take the first of each pair out, or accept that they are two parts.",
            fix="remove",
        ),
    ]


def _light(images: Sequence[ImageRecord], measures: Mapping[str, Measured]) -> list[Finding]:
    normal = [image for image in images if image.label is Label.NORMAL]

    def far(key: str, scale: Callable[[Any], Any] = lambda values: values) -> list[tuple[ImageRecord, float]]:
        values = np.array([float(measures[image.pixel_digest].values[key]) for image in normal])
        if not len(values):
            return []
        scores = outliers(scale(values))
        return [(image, float(z)) for image, z in zip(normal, scores, strict=True) if abs(z) > FAR_OUT]

    dark = [
        FindingPicture(pixel_digest=image.pixel_digest, note="much brighter" if z > 0 else "much darker")
        for image, z in far("brightness")
    ]
    blurred = [
        FindingPicture(pixel_digest=image.pixel_digest, note="much less sharp than the others")
        for image, z in far("sharpness", lambda values: np.log(values + 1))
        if z < 0
    ]
    clipped = [
        FindingPicture(pixel_digest=image.pixel_digest, note=f"{share:.0%} of it is black or white")
        for image in images
        if (share := _clipped(measures[image.pixel_digest])) > 0.5
    ]
    return [
        *found(
            dark,
            kind="exposure",
            severity="look",
            title="normal pictures with another exposure",
            why="The model learns that this light is normal, and becomes blind for what differs as much.",
            remedy="Take them out if the light was wrong; accept them if it happens in production.",
            fix="remove",
        ),
        *found(
            blurred,
            kind="blur",
            severity="look",
            title="blurred normal pictures",
            why="Blur hides the texture that the model should learn.",
            remedy="Take them out if the camera was out of focus; accept them if it happens in production.",
            fix="remove",
        ),
        *found(
            clipped,
            kind="clipped",
            severity="look",
            title="pictures that are mostly black or white",
            why="Where a picture has no detail, no defect can be seen.",
            remedy="Correct exposure or lighting; accept them if it is the background.",
            fix="remove",
        ),
    ]


def _clipped(measured: Measured) -> float:
    return float(measured.values["dark_share"]) + float(measured.values["bright_share"])


def _sizes(images: Sequence[ImageRecord]) -> list[Finding]:
    sizes = Counter((image.height, image.width) for image in images)
    (height, width), often = sizes.most_common(1)[0]
    if often < 0.9 * len(images):  # sizes vary anyway
        return []
    odd = [image for image in images if (image.height, image.width) != (height, width)]
    return about(
        odd,
        kind="size",
        severity="look",
        title="pictures of another size",
        why=f"All others are {height} × {width} px (height × width); another camera or a crop looks different.",
        remedy="Take them out if they come from elsewhere, or accept them.",
        fix="remove",
    )


def _masks(
    workspace: Workspace, images: Sequence[ImageRecord], empty: set[str], progress: Progress | None
) -> list[Finding]:
    anomalous = [image for image in images if image.label is Label.ANOMALOUS]
    masked = [image for image in anomalous if image.mask_digest is not None]
    large, small, cropped = [], [], []
    for done, image in enumerate(masked):
        if progress is not None:
            progress(done, len(masked), f"looking at the mask of {image.name}")
        try:
            mask = decode_mask(workspace.blobs.get(str(image.mask_digest)), image.name)
        except (EngineError, BlobMissing):
            continue
        share = float(mask.mean())
        if share > 0.5:
            note = f"{share:.0%} of the picture is marked"
            large.append(FindingPicture(pixel_digest=image.pixel_digest, note=note))
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        extent = max(
            (rows[-1] - rows[0] + 1) * STUDY_SIDE / image.height,
            (columns[-1] - columns[0] + 1) * STUDY_SIDE / image.width,
        )
        if extent < SMALLEST_DEFECT:
            note = f"{extent:.1f} px on a canvas of {STUDY_SIDE} px"
            small.append(FindingPicture(pixel_digest=image.pixel_digest, note=note))
        lost = 1 - in_view(mask, (STUDY_SIDE, STUDY_SIDE), "crop").sum() / mask.sum()
        if lost > 0.5:
            note = f"{lost:.0%} of the defect lies in the margin"
            cropped.append(FindingPicture(pixel_digest=image.pixel_digest, note=note))
    nothing = [image for image in anomalous if image.pixel_digest in empty and image.mask_digest is None]
    return [
        *about(
            nothing,
            kind="empty-mask",
            severity="look",
            title="anomalous pictures whose mask marks nothing",
            why="They count as anomalous, but pixel figures do without them.",
            remedy="Give each a mask, make it normal if there is no defect, or accept it.",
        ),
        *found(
            large,
            kind="large-mask",
            severity="serious",
            title="masks that mark most of the picture",
            why="They may be inverted; pixel figures would then reward the wrong places.",
            remedy="Replace the mask or take it away; accept it if the defect really is that large.",
            fix="unmask",
        ),
        *found(
            small,
            kind="small-defect",
            severity="look",
            title="defects that almost vanish at the usual size",
            why=f"Studies lay pictures on {STUDY_SIDE} × {STUDY_SIDE} px unless told otherwise.",
            remedy="Choose a larger height and width for the study.",
        ),
        *found(
            cropped,
            kind="cropped-defect",
            severity="note",
            title="defects that a crop would cut away",
            why="The paper's crop keeps the middle of a picture; these defects lie mostly in the margin.",
            remedy="Keep squash, which studies take unless told otherwise, or choose letterbox; both keep all.",
        ),
    ]


def _too_few(version: DatasetVersion) -> list[Finding]:
    findings = []
    calibration = version.count(role=Role.CALIBRATION)
    for needed, rate in CALIBRATION_FOR:
        if calibration < needed:
            findings.append(
                Finding(
                    kind=f"calibration-{needed}",
                    severity="look" if needed == CALIBRATION_FOR[0][0] else "note",
                    title=f"too few calibration pictures for a false-reject rate of {rate}",
                    why=f"With {needed} calibration pictures a rate of at most {rate} can be guaranteed; "
                    f"there are {calibration}.",
                    remedy=f"Add about {5 * (needed - calibration):,} pictures of normal parts: a fifth calibrates.",
                    count=calibration,
                )
            )
    for role in (Role.VALIDATION, Role.TEST):
        normal = version.count(role=role, label=Label.NORMAL)
        if normal < FEW_HELD_OUT:
            findings.append(
                Finding(
                    kind=f"few-{role}",
                    severity="look",
                    title=f"few normal {role} pictures",
                    why=f"There are {normal}: figures will have wide intervals, and a study's choices be luck.",
                    remedy=f"Add pictures of normal parts; {FEW_HELD_OUT} or more for each role say something.",
                    count=normal,
                )
            )
    return findings


def _balance(images: Sequence[ImageRecord]) -> list[Finding]:
    by_type: dict[str, int] = defaultdict(int)
    for image in images:
        if image.label is Label.ANOMALOUS:
            by_type[image.defect_type or "of unknown type"] += 1
    rare = {kind: count for kind, count in by_type.items() if count < FEW_OF_A_TYPE}
    if not rare:
        return []
    listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(rare.items()))
    return [
        Finding(
            kind="rare-types",
            severity="note",
            title="defect types with very few pictures",
            why=f"{listed}: half of them choose the model and half judge it, so figures by type say little.",
            remedy="Add pictures of these types when there are some.",
            count=len(rare),
        )
    ]


def _shape(images: Sequence[ImageRecord]) -> list[Finding]:
    stretched = [
        image for image in images if max(image.height, image.width) > STRETCH * min(image.height, image.width)
    ]
    if not stretched:
        return []
    cut = float(
        np.mean([1 - min(image.height, image.width) / max(image.height, image.width) for image in stretched])
    )
    return about(
        stretched,
        kind="shape",
        severity="note",
        title="pictures far from square",
        why=f"A square canvas squashes them; a crop to a square would cut {cut:.0%} away on average.",
        remedy="Give the study a height and width of the pictures' shape, or choose letterbox.",
    )


def main(arguments: Sequence[str]) -> None:
    """Examine a version in this process."""
    (version_id,) = map(int, arguments)
    logging.basicConfig(level=logging.INFO)
    os.nice(10)  # studies come first
    settings = Settings()

    def do(progress: Progress) -> Any:
        workspace = open_workspace(settings)
        with workspace.session() as session:
            version = datasets.get_version(session, version_id)
        return {"findings": len(examine(workspace, version, progress=progress))}

    jobs.work(settings, job_key(version_id), do)


if __name__ == "__main__":
    main(sys.argv[1:])
