"""The pictures of a version: filtered, paged, one of them large, and corrected one by one or many at once."""

from collections.abc import Sequence

import streamlit as st

from dashboard import cached, display, downloads
from dashboard.components import look
from dashboard.components.gallery import Tile, gallery
from dashboard.sections import corrections
from dashboard.session import workspace
from dashboard.wording import plain, plural
from engine import heatmap
from engine.images import decode_mask
from storage import checkups
from storage.records import DatasetVersion, ImageRecord, Label, Role

PAGE_SIZE = 48
EVERY = "all"
CHOSEN = "chosen pictures"  # in the session: ids by version


def show(name: str, version: DatasetVersion) -> None:
    """Draw the section."""
    corrections.waiting(name, version)
    images = cached.images(version.id)
    if "image" in st.query_params:
        _picture(name, images, st.query_params["image"])
    found = _filtered(images, version)
    if not found:
        st.info("No picture fits this filter. Choose “all” above.", icon=":material/filter_alt_off:")
        return
    _grid(name, version, found)


def _filtered(images: Sequence[ImageRecord], version: DatasetVersion) -> list[ImageRecord]:
    types = sorted({image.defect_type for image in images if image.defect_type})
    findings = _findings(version)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        role = st.segmented_control(
            "Role",
            [EVERY, *(role.value for role in Role)],
            default=EVERY,
            key="role",
            bind="query-params",
            required=True,
        )
        label = st.segmented_control(
            "Label",
            [EVERY, *(label.value for label in Label)],
            default=EVERY,
            key="label",
            bind="query-params",
            required=True,
        )
        kind = finding = EVERY
        if types:
            kind = st.selectbox("Defect type", [EVERY, *types], key="type", bind="query-params", width=180)
        if findings is None:
            st.selectbox(
                "Finding",
                [EVERY],
                key="no finding",
                disabled=True,
                help="This version was not checked yet. Start that under Check, or with `simplenet doctor`.",
                width=180,
            )
        elif findings:
            finding = st.selectbox(
                "Finding",
                [EVERY, *findings],
                key="finding",
                bind="query-params",
                width=320,
            )
    within = None if findings is None or finding == EVERY else findings[finding]
    return [
        image
        for image in images
        if role in (EVERY, image.role.value)
        and label in (EVERY, image.label.value)
        and kind in (EVERY, image.defect_type)
        and (within is None or image.pixel_digest in within)
    ]


def _findings(version: DatasetVersion) -> dict[str, set[str]] | None:
    """Title → pixel digests of what the last examination found in pictures; None where there was none."""
    with workspace().session() as session:
        checkup = checkups.get_checkup(session, version.id)
    if checkup is None:
        return None
    found: dict[str, set[str]] = {}
    for finding in checkup.findings["findings"]:
        digests = {picture["pixel_digest"] for picture in finding["pictures"]}
        if digests:
            found[finding["title"]] = digests
    return found


def _grid(name: str, version: DatasetVersion, images: Sequence[ImageRecord]) -> None:
    page = 1
    with st.container(horizontal=True, vertical_alignment="center"):
        if len(images) > PAGE_SIZE:
            pages = -(-len(images) // PAGE_SIZE)
            page = min(st.pagination(pages, key="page", bind="query-params"), pages)
        choosing = st.toggle("Choose several", key="choosing")
        st.caption(plural(len(images), "picture"), text_alignment="right", width="stretch")
    shown = images[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    if not choosing:
        gallery(
            [_tile(image) for image in shown],
            key="pictures",
            on_pick=lambda picked: st.query_params.update(image=picked),
            selected=st.query_params.get("image"),
            tile_width=118,
        )
        return
    chosen = _chosen(version)
    corrections.many(name, images, chosen)

    def choose(ids: list[str]) -> None:
        chosen.difference_update(str(image.id) for image in shown)
        chosen.update(ids)

    gallery(
        [_tile(image) for image in shown],
        key=f"choosing {page}",
        on_pick=lambda _: None,
        chosen=[str(image.id) for image in shown if str(image.id) in chosen],
        on_choose=choose,
        tile_width=118,
    )


def _chosen(version: DatasetVersion) -> set[str]:
    by_version: dict[int, set[str]] = st.session_state.setdefault(CHOSEN, {})
    return by_version.setdefault(version.id, set())


def _tile(image: ImageRecord) -> Tile:
    kind = image.defect_type or image.label.value
    return Tile(
        id=str(image.id),
        source=cached.thumbnail_url(image.digest),
        title=f"{image.name}: {image.role.value}, {kind}",
        caption=kind.replace("_", " "),
        detail=image.role.value,
    )


def _close() -> None:
    del st.query_params["image"]


def _picture(name: str, images: Sequence[ImageRecord], image_id: str) -> None:
    """One picture large, with the outline of its ground truth."""
    image = next((image for image in images if str(image.id) == image_id), None)
    if image is None:
        st.warning(
            f"Picture {plain(image_id)} is not in this version. Choose one below.",
            icon=":material/image_search:",
        )
        return
    with st.container(border=True):
        left, right = st.columns([2, 3], gap="medium")
        pixels = cached.shown(image.digest, image.name)
        if image.mask_digest is not None:
            mask = decode_mask(workspace().blobs.get(image.mask_digest), f"mask of {image.name}")
            left.image(
                heatmap.outline(pixels, display.shrunk_mask(mask, *pixels.shape[:2])),
                width="stretch",
                alt=f"{image.name} with the outline of its defect",
            )
        else:
            left.image(pixels, width="stretch", alt=image.name)
        original = downloads.original_address(workspace().settings, image.digest)
        if pixels.shape[:2] != (image.height, image.width):
            left.markdown(
                f"Shown at {pixels.shape[0]} × {pixels.shape[1]} px. [The original]({original})"  # opens in a new tab
            )
        with right:
            st.subheader(plain(image.name))
            truth = "outlined in magenta" if image.mask_digest else "none"
            look.facts(
                [
                    ("Label", image.label.value),
                    ("Defect type", image.defect_type or "–"),
                    ("Role", image.role.value),
                    ("Size", f"{image.height} × {image.width} px (height × width)"),
                    ("Ground truth", truth),
                    ("Content", image.digest[:12]),
                ]
            )
            corrections.one(name, image, sorted({i.defect_type for i in images if i.defect_type}))
            st.button("Close", on_click=_close, icon=":material/close:")
