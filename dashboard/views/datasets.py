"""Datasets: one dataset's version, counts and pictures."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from dashboard import cached, heatmap
from dashboard.components import choosing, look
from dashboard.components.gallery import Tile, gallery
from dashboard.session import workspace
from dashboard.views import HOME, STUDIES
from dashboard.wording import moment, plural
from engine.images import decode_mask
from storage import datasets
from storage.records import DatasetVersion, ImageRecord, Label, Role

PAGE_SIZE = 48
EVERY = "all"


def show() -> None:
    """Draw the page."""
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
    if not names:
        _empty()
        return
    row = look.top("Datasets")
    with row:
        name = choosing.dataset(names, clears=["image"])
    with workspace().session() as session:
        version = datasets.latest_version(session, name)
    with row:
        if st.button("New study", type="primary", icon=":material/add:"):
            st.switch_page(STUDIES, query_params={"dataset": name, "new": "1"})
    _header(version)
    images = cached.images(version.id)
    if "image" in st.query_params:
        _picture(images, st.query_params["image"])
    _pictures(_filtered(images))
    with st.expander("Add pictures"):
        st.write(
            "Ingest a folder under the same name: its pictures become the next version; this one stays as it is."
        )
        st.code(f"simplenet ingest FOLDER --name {name}", language="bash")


def _empty() -> None:
    choosing.none_yet("No dataset yet", "Ingest a folder of pictures, or start with the demo.")
    st.code("simplenet ingest FOLDER --name my-parts", language="bash")
    st.page_link(HOME, label="Try the demo", icon=":material/play_arrow:")


def _header(version: DatasetVersion) -> None:
    source = "split by its source" if version.source_split else "split here"
    look.line(
        look.note(f"version {version.number}", title=f"Content {version.digest[:12]}"),
        f'<span class="sn-muted">{plural(version.count(), "picture")} from {escape(version.source)}, {source}, '
        f"{moment(version.created_at)}</span>",
    )
    grid = st.grid(4, min_column_width=140, border=True)
    meanings = {
        Role.TRAIN: "the model is fitted on these",
        Role.CALIBRATION: "set threshold and colour scale",
        Role.VALIDATION: "every choice of a study",
        Role.TEST: "sealed: read once per candidate",
    }
    for role, meaning in meanings.items():
        normal, anomalous = (version.count(role=role, label=label) for label in Label)
        with grid.cell():
            st.html(
                f'<div class="sn-muted">{role.value.capitalize()}</div><div class="sn-big">{normal + anomalous:,}</div>'
                f'<div class="sn-muted">{normal:,} normal, {anomalous:,} anomalous<br>{meaning}</div>'
            )
    if not version.has_defects:
        st.info(
            "No picture is labelled anomalous: studies are judged by defects planted in normal pictures, and "
            "everything derived from them is badged “synthetic validation”.",
            icon=":material/info:",
        )


def _filtered(images: Sequence[ImageRecord]) -> list[ImageRecord]:
    types = sorted({image.defect_type for image in images if image.defect_type})
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
        kind = EVERY
        if types:
            kind = st.selectbox("Defect type", [EVERY, *types], key="type", bind="query-params", width=180)
    return [
        image
        for image in images
        if role in (EVERY, image.role.value)
        and label in (EVERY, image.label.value)
        and kind in (EVERY, image.defect_type)
    ]


def _pictures(images: Sequence[ImageRecord]) -> None:
    if not images:
        st.info("No picture fits this filter. Choose “all” above.", icon=":material/filter_alt_off:")
        return
    page = 1
    if len(images) > PAGE_SIZE:
        pages = -(-len(images) // PAGE_SIZE)
        left, right = st.columns([3, 2], vertical_alignment="center")
        with left:
            page = min(st.pagination(pages, key="page", bind="query-params"), pages)
        right.caption(f"{plural(len(images), 'picture')}", text_alignment="right")
    else:
        st.caption(plural(len(images), "picture"))
    shown = images[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    gallery(
        [_tile(image) for image in shown],
        key="pictures",
        on_pick=lambda picked: st.query_params.update(image=picked),
        selected=st.query_params.get("image"),
        tile_width=118,
    )


def _tile(image: ImageRecord) -> Tile:
    kind = image.defect_type or image.label.value
    return Tile(
        id=str(image.id),
        source=cached.thumbnail_url(image.digest, image.name),
        title=f"{image.name}: {image.role.value}, {kind}",
        caption=kind.replace("_", " "),
        detail=image.role.value,
    )


def _close() -> None:
    del st.query_params["image"]


def _picture(images: Sequence[ImageRecord], image_id: str) -> None:
    """One picture large, with the outline of its ground truth."""
    image = next((image for image in images if str(image.id) == image_id), None)
    if image is None:
        st.warning(
            f"Picture {image_id} is not in this version. Choose one below.", icon=":material/image_search:"
        )
        return
    with st.container(border=True):
        left, right = st.columns([2, 3], gap="medium")
        pixels = cached.pixels(image.digest, image.name)
        if image.mask_digest is not None:
            mask = decode_mask(workspace().blobs.get(image.mask_digest), f"mask of {image.name}")
            left.image(
                heatmap.outline(pixels, mask),
                width="stretch",
                alt=f"{image.name} with the outline of its defect",
            )
        else:
            left.image(pixels, width="stretch", alt=image.name)
        with right:
            st.subheader(image.name)
            truth = "outlined in magenta" if image.mask_digest else "none"
            look.facts(
                [
                    ("Label", image.label.value),
                    ("Defect type", image.defect_type or "–"),
                    ("Role", image.role.value),
                    ("Size", f"{image.height} × {image.width} px (height × width)"),
                    ("Ground truth", truth),
                ]
            )
            st.button("Close", on_click=_close, icon=":material/close:")


if __name__ == "__main__":
    show()
