"""Heatmaps: what the champion sees on the test pictures, beside the pictures and their ground truth."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from dashboard import cached, charts, incidents, scored
from dashboard.components import choosing, legend, look
from dashboard.components.gallery import Tile, gallery
from dashboard.scales import scale_of, seen_by
from dashboard.scored import Order, ScoredPicture, Show
from dashboard.session import workspace
from dashboard.thumbnails import data_url, shrunk
from dashboard.views import DATASETS, STUDIES
from dashboard.wording import number, plain, plural
from engine import heatmap
from engine.images import decode_mask
from storage import datasets, models
from storage.records import ImageRecord, Model, Role

PAGE_SIZE = 24
TILE_OPACITY = 0.6
EVERY = "all types"


def show() -> None:
    """Draw the page."""
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
        champions = {model.dataset_name: model for name in names if (model := models.champion(session, name))}
    if not names:
        choosing.none_yet("No heatmaps yet", "They come with a dataset and its first study.")
        st.page_link(DATASETS, label="Datasets", icon=":material/photo_library:")
        return
    with look.top("Heatmaps"):
        name = choosing.dataset(_with_champions_first(names, champions), clears=["image", "defect"])
    model = champions.get(name)
    if model is None:
        _no_champion(name)
        return
    pictures = _pictures(model)
    if not pictures:
        st.info(
            f"Dataset {name} has no test pictures. Ingest some under test/ and run a study.",
            icon=":material/info:",
        )
        return
    _browse(model, pictures)


def _with_champions_first(names: Sequence[str], champions: dict[str, Model]) -> list[str]:
    return sorted(names, key=lambda name: name not in champions)


def _no_champion(name: str) -> None:
    choosing.none_yet(
        "No champion yet", f"Heatmaps are drawn by a dataset's champion; a study of {escape(name)} finds one."
    )
    if st.button("New study", type="primary", icon=":material/add:"):
        st.switch_page(STUDIES, query_params={"dataset": name, "new": "1"})


def _pictures(model: Model) -> list[ScoredPicture]:
    """All test pictures with their scores; those not scored yet are scored now, with a progress bar."""
    known = cached.scores_by_model()
    if model.id not in known:
        images = [image for image in cached.images(model.dataset_version_id) if image.role is Role.TEST]
        found, missing = scored.scored_pictures(workspace(), model, images)
        if missing:
            _score(model, missing)
            found, _ = scored.scored_pictures(workspace(), model, images)
        known[model.id] = found
    return known[model.id]


def _score(model: Model, images: Sequence[ImageRecord]) -> None:
    from tuning.predictor import score_images

    bar = st.progress(0.0, "Loading the champion")
    for done, _ in enumerate(score_images(workspace(), model, images), start=1):
        bar.progress(done / len(images), f"Scoring picture {done} of {len(images)}")
    bar.empty()


def _browse(model: Model, pictures: Sequence[ScoredPicture]) -> None:
    _summary(model, pictures)
    listed = _filtered(model, pictures)
    current = _current(listed)
    if current is None:
        st.info("No picture fits this filter. Choose “all”.", icon=":material/filter_alt_off:")
        return
    left, right = st.columns([4, 8], gap="large")
    with left:
        _grid(model, listed, current)
    with right, st.container(key="large"):
        _large(model, listed, current, pictures)


def _summary(model: Model, pictures: Sequence[ScoredPicture]) -> None:
    outcomes = [picture.outcome.value for picture in pictures]
    false_rejects, escapes = outcomes.count("false reject"), outcomes.count("escape")
    normal = outcomes.count("accepted") + false_rejects
    rate = scale_of(model).false_reject_rate
    promise = f", set so that at most {100 * rate:.3g} % of normal parts are rejected" if rate else ""
    parts = [
        look.note(f"champion · version {model.version}"),
        f"<span>{plural(normal, 'normal picture')}: <b>{plural(false_rejects, 'false reject')}</b></span>",
        f"<span>{plural(len(outcomes) - normal, 'anomalous picture')}: <b>{plural(escapes, 'escape')}</b></span>",
        f'<span class="sn-muted">threshold {number(scale_of(model).threshold)}{promise}</span>',
    ]
    if (model.figures["test"] or {}).get("synthetic"):
        parts.append(
            look.note(
                "synthetic test",
                title="No test picture is labelled anomalous: the figures are of defects planted into these pictures",
            )
        )
    look.line(*parts)


def _filtered(model: Model, pictures: Sequence[ScoredPicture]) -> list[ScoredPicture]:
    types = sorted({picture.image.defect_type for picture in pictures if picture.image.defect_type})
    with st.container(horizontal=True, vertical_alignment="bottom"):
        show = st.segmented_control(
            "Show",
            [item.value for item in Show],
            default=Show.ALL.value,
            key="show",
            bind="query-params",
            required=True,
        )
        kind = st.selectbox("Defect type", [EVERY, *types], key="defect", bind="query-params", width=170)
        order = st.selectbox(
            "Sort", [item.value for item in Order], key="sort", bind="query-params", width=230
        )
    return scored.chosen(
        pictures,
        Show(show),
        Order(order),
        defect_type=None if kind == EVERY else kind,
        threshold=scale_of(model).threshold,
    )


def _current(listed: Sequence[ScoredPicture]) -> ScoredPicture | None:
    wanted = st.query_params.get("image")
    return next(
        (picture for picture in listed if str(picture.image.id) == wanted), listed[0] if listed else None
    )


def _choose(image_id: str) -> None:
    st.query_params["image"] = image_id


def _grid(model: Model, listed: Sequence[ScoredPicture], current: ScoredPicture) -> None:
    pages = max(1, -(-len(listed) // PAGE_SIZE))
    page = listed.index(current) // PAGE_SIZE + 1
    # The page follows the chosen picture: turning it chooses the first picture of the new page.
    if pages > 1:
        turned = st.pagination(pages, default=page, key=f"page of {page} {len(listed)}", max_visible_pages=5)
        if turned != page:
            _choose(str(listed[(turned - 1) * PAGE_SIZE].image.id))
            st.rerun()
    shown = listed[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    gallery(
        [_tile(model, picture) for picture in shown],
        key="overlays",
        on_pick=_choose,
        selected=str(current.image.id),
        tile_width=80,
    )


def _tile(model: Model, picture: ScoredPicture) -> Tile:
    return Tile(
        id=str(picture.image.id),
        source=_tile_url(model.id, picture.image.digest, picture.image, model),
        title=f"{picture.image.name}, score {number(picture.score)}",
        caption=picture.decision,
        detail=number(picture.score, 2),
        decision=picture.decision,
        wrong=picture.wrong,
    )


@st.cache_data(max_entries=2000, show_spinner=False)
def _tile_url(model_id: int, digest: str, _image: ImageRecord, _model: Model) -> str:  # noqa: ARG001 (the key)
    """A small overlay as a data URL; model and picture name it, and neither ever changes."""
    anomaly_map = scored.anomaly_map(workspace(), _model, _image)
    pixels = cached.pixels(_image.digest, _image.name)
    drawn = heatmap.overlay(pixels, anomaly_map, scale_of(_model), TILE_OPACITY)
    return data_url(shrunk(heatmap.veil(drawn, seen_by(_model, *pixels.shape[:2]))))


def _large(
    model: Model, listed: Sequence[ScoredPicture], current: ScoredPicture, pictures: Sequence[ScoredPicture]
) -> None:
    place = listed.index(current)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(plain(current.image.name), width="stretch")
        _step(listed, place - 1, label="Previous", icon=":material/chevron_left:", shortcut="Left")
        _step(listed, place + 1, label="Next", icon=":material/chevron_right:", shortcut="Right")
    truth = (current.image.defect_type or current.image.label.value).replace("_", " ")
    parts = [
        look.decision(current.decision),
        f'<span class="sn-number">score <b>{number(current.score)}</b></span>',
        f'<span class="sn-muted">{escape(truth)} · {place + 1} of {len(listed)}</span>',
    ]
    if current.wrong:
        parts.insert(1, look.note(current.wrong))
    look.line(*parts)
    st.fragment(_panels)(model, current)
    points = [
        charts.ScorePoint(
            name=picture.image.name,
            score=picture.score,
            decision=picture.decision,
            anomalous=picture.image.label.value == "anomalous",
        )
        for picture in pictures
    ]
    strip = charts.score_strip(points, scale_of(model).threshold, current.image.name)
    st.plotly_chart(strip, config=charts.MODE_BAR, key="strip")


def _step(listed: Sequence[ScoredPicture], place: int, *, label: str, icon: str, shortcut: str) -> None:
    """A button, and a key, to the picture before or after."""
    inside = 0 <= place < len(listed)
    target = str(listed[place].image.id) if inside else ""
    st.button(label, icon=icon, shortcut=shortcut, disabled=not inside, on_click=_choose, args=[target])


@incidents.guarded
def _panels(model: Model, current: ScoredPicture) -> None:
    """The heatmap large, beside it original and ground truth; the slider redraws only these."""
    image = current.image
    pixels = cached.pixels(image.digest, image.name)
    anomaly_map = scored.anomaly_map(workspace(), model, image)
    control, meaning = st.columns(2, gap="medium", vertical_alignment="bottom")
    strength = control.slider(
        "Heatmap opacity", 0, 100, 60, step=5, format="%d %%", key="opacity", bind="query-params"
    )
    with meaning:
        legend.show()
    with st.container(key="panels"):
        over, side = st.columns([2, 1])
    seen = seen_by(model, *pixels.shape[:2])
    drawn = heatmap.veil(heatmap.overlay(pixels, anomaly_map, scale_of(model), strength / 100), seen)
    over.image(drawn, caption="Heatmap", width="stretch", alt=f"{image.name} with its heatmap")
    unseen = 1 - pixels[seen].size / pixels.size
    if unseen > 0:
        over.caption(
            f"The grey margin, {100 * unseen:.0f} % of the picture, is cut away by the centre crop: the model never "
            "sees it. A study with another way to resize sees all."
        )
    side.image(pixels, caption="Original", width="stretch", alt=f"{image.name}, original")
    if image.mask_digest is not None:
        mask = decode_mask(workspace().blobs.get(image.mask_digest), f"mask of {image.name}")
        outlined = heatmap.outline(pixels, mask)
        side.image(
            outlined, caption="Ground truth", width="stretch", alt=f"{image.name} with its defect outlined"
        )
    elif image.label.value == "normal":
        side.caption("Ground truth: a normal picture, nothing to outline.")
    else:
        side.caption("Ground truth: anomalous, nobody has marked where.")


if __name__ == "__main__":
    show()
