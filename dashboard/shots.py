"""What the viewer needs to know of scored pictures: addresses, words, and what each model sees."""

from collections.abc import Mapping, Sequence

from dashboard import downloads, maps
from dashboard.components.viewer import Lens, Seen, Shot
from dashboard.scales import scale_of, seen_by
from dashboard.scored import Outcome, Picture, ScoredPicture, Verdict
from storage.records import Label, Model
from storage.settings import Settings

IN_WORDS = {None: "no label yet", Label.NORMAL: "normal", Label.ANOMALOUS: "anomalous"}


def lens(model: Model, title: str) -> Lens:
    """A model's colour scale, which never changes."""
    scale = scale_of(model)
    return Lens(title=title, low=scale.map_low, threshold=scale.map_threshold, high=scale.map_high)


def shot(
    settings: Settings,
    picture: ScoredPicture,
    models: Sequence[Model],
    said: Mapping[str, Label],
    *,
    batch: str | None = None,
) -> Shot:
    """A picture as models see it.

    Args:
        models: that which gave the picture's own score, and those of its `others`.
        said: what people said of pictures, by pixel digest.
        batch: id of the batch that the picture is of; None for one of a dataset.
    """
    image = picture.image
    own = Verdict(score=picture.score, decision=picture.decision, distance=picture.distance)
    marked = said.get(image.pixel_digest)
    return Shot(
        id=str(image.id),
        name=image.name,
        height=image.height,
        width=image.width,
        truth=(image.defect_type or IN_WORDS[image.label]).replace("_", " "),
        type=image.defect_type,
        remark=_remark(image),
        marked=marked.value if marked else None,
        screen=maps.screen_address(settings, image.digest, batch=batch),
        outlines=maps.truth_address(settings, image.mask_digest) if image.mask_digest else None,
        original=downloads.original_address(settings, image.digest, batch=batch),
        file=image.name.rsplit("/", 1)[-1],
        seen=tuple(
            _seen(settings, image, model, verdict, batch)
            for model, verdict in zip(models, (own, *picture.others), strict=True)
        ),
    )


def _seen(settings: Settings, image: Picture, model: Model, verdict: Verdict, batch: str | None) -> Seen:
    folder, query = maps.addresses(settings, model, image, batch=batch)
    rows, columns = seen_by(model, image.height, image.width)
    shown = (rows.stop - rows.start) * (columns.stop - columns.start)
    whole = image.height * image.width
    return Seen(
        score=verdict.score,
        decision=verdict.decision,
        wrong=_wrong(image.label, verdict.decision),
        folder=folder,
        query=query,
        view=None if shown == whole else (rows.start, columns.start, rows.stop, columns.stop),
        unseen=round(100 * (1 - shown / whole)),
    )


def _wrong(label: Label | None, decision: str) -> str | None:
    if label is Label.NORMAL and decision == "reject":
        return Outcome.FALSE_REJECT.value
    return Outcome.ESCAPE.value if label is Label.ANOMALOUS and decision == "accept" else None


def _remark(image: Picture) -> str:
    if image.mask_digest:
        return ""
    if image.label is Label.NORMAL:
        return "A normal picture: nothing to outline."
    return "Nobody has marked where." if image.label is Label.ANOMALOUS else "Nobody has said what it is yet."
