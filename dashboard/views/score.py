"""Score: drop pictures or an archive, and see what the champion says of each; batches stay until they are deleted."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd
import streamlit as st
from PIL import Image

from dashboard import batching, downloads, incidents
from dashboard.components import choosing, job_progress, legend, look
from dashboard.components.gallery import Tile, gallery
from dashboard.components.uploader import uploader
from dashboard.scales import scale_of, seen_by
from dashboard.session import WHO, workspace
from dashboard.thumbnails import data_url, shrunk
from dashboard.views import DATASETS, STUDIES
from dashboard.wording import moment, number, plain, plural
from engine import heatmap
from engine.images import decode, page
from storage import datasets, models, staging
from storage.records import Model
from storage.room import size_text
from tuning import batches, jobs
from tuning.batches import Batch, BatchPicture
from tuning.errors import BatchNotFound
from tuning.jobs import JobState
from tuning.reading import file_bytes

PAGE_SIZE = 24
ORDERS = {
    "highest score first": lambda one: (-(one.score or 0.0), one.name),
    "lowest score first": lambda one: (one.score or 0.0, one.name),
    "name": lambda one: one.name,
}
SHOWN = {"all": None, "rejects": "reject", "accepts": "accept"}


def show() -> None:
    """Draw the page."""
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
        champions = {name: model for name in names if (model := models.champion(session, name))}
    if not names:
        choosing.none_yet("Nothing to score with yet", "A model comes with a dataset and its first study.")
        st.page_link(DATASETS, label="Datasets", icon=":material/photo_library:")
        return
    with look.top("Score"):
        ordered = sorted(names, key=lambda name: name not in champions)
        name = choosing.dataset(ordered, clears=["batch", "picture"])
    if "batch" in st.query_params:
        try:
            batch = batches.find(workspace().settings, st.query_params["batch"])
        except BatchNotFound as error:
            st.warning(plain(str(error)), icon=":material/search_off:")
        else:
            _batch(batch)
            return
    champion = champions.get(name)
    if champion is None:
        choosing.none_yet(
            "No champion yet",
            f"Pictures are scored by a dataset's champion; a study of {escape(name)} finds one.",
        )
        if st.button("New study", type="primary", icon=":material/add:"):
            st.switch_page(STUDIES, query_params={"dataset": name, "new": "1"})
    else:
        _drop(name, champion)
    _kept(name)


def _drop(name: str, champion: Model) -> None:
    st.markdown(
        f"Drop pictures of {plain(name)}, a folder, or a zip or tar of them. Version {champion.version}, the champion, "
        "scores each; nothing of it is added to the dataset."
    )
    settings = workspace().settings
    completed = uploader(settings, key=f"score-{name}", dataset=f"{staging.TO_SCORE}{name}")
    if completed:
        with incidents.shown():
            batch = batches.from_upload(workspace(), name, completed, who=WHO)
            batching.start_scoring(settings, batch.id)
            _open(batch.id)
            st.rerun()


def _kept(name: str) -> None:
    found = batches.list_batches(workspace().settings, name)
    if not found:
        return
    st.subheader("Batches")
    for batch in found:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.markdown(
                f"**{plain(batch.origin)}**, version {batch.model_version}, {moment(batch.created_at)}",
                width="stretch",
            )
            st.caption(_state(batch))
            st.button("Open", key=f"open {batch.id}", on_click=_open, args=[batch.id])


def _state(batch: Batch) -> str:
    job = jobs.status(workspace().settings, batches.job_key(batch.id))
    if job is None or job.state is JobState.INTERRUPTED:
        return "not finished"
    if job.state is JobState.DONE:
        return f"{plural(job.result['pictures'], 'picture')}, {job.result['rejected']:,} rejected"
    return job.state.value


def _open(batch_id: str | None) -> None:
    st.query_params.pop("picture", None)
    if batch_id is None:
        st.query_params.pop("batch", None)
    else:
        st.query_params["batch"] = batch_id


def _batch(batch: Batch) -> None:
    settings = workspace().settings
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(plain(batch.origin), width="stretch")
        st.button("All batches", icon=":material/arrow_back:", on_click=_open, args=[None])
        with st.popover("Delete", icon=":material/delete:"):
            st.write("The pictures of this batch and all that came of them are deleted.")
            if st.button("Delete the batch", key="delete batch", type="primary"):
                batches.delete(settings, batch.id)
                _open(None)
                st.rerun()
    st.caption(
        f"Scored by version {batch.model_version} of {plain(batch.dataset)} with threshold "
        f"{number(batch.threshold)}, {moment(batch.created_at)}."
    )
    job = jobs.status(settings, batches.job_key(batch.id))
    running = job_progress.watch(job, words=lambda one: job_progress.counted(one, "pictures"))
    if not running and (job is None or job.state is not JobState.DONE):
        if job is not None and job.error:
            incidents.refused(job.error)
        else:
            st.warning("Scoring was interrupted; what is done is kept.", icon=":material/pause_circle:")
        if st.button("Go on", type="primary", icon=":material/play_arrow:"):
            batching.start_scoring(settings, batch.id)
            st.rerun()
    found = batches.results(batch)
    skipped = batches.left_out(batch)
    failed = [one for one in found if one.error is not None]
    scored = [one for one in found if one.error is None]
    _summary(scored, failed, len(skipped))
    if scored:
        _downloads(batch)
        _browse(batch, scored)
    if failed:
        st.markdown(f"**{plural(len(failed), 'picture')} could not be scored**")
        rows = [{"picture": one.name, "reason": one.error} for one in failed]
        st.dataframe(pd.DataFrame(rows), hide_index=True)
    if skipped:
        with st.expander(f"{plural(len(skipped), 'file')} left out"):
            st.dataframe(
                pd.DataFrame([{"file": one.name, "reason": one.reason} for one in skipped]), hide_index=True
            )


def _summary(scored: Sequence[BatchPicture], failed: Sequence[BatchPicture], skipped: int) -> None:
    rejected = sum(one.decision == "reject" for one in scored)
    parts = [
        f"<span>{plural(len(scored), 'picture')} scored</span>",
        f"<span>{look.decision('reject')} <b>{rejected:,}</b></span>",
        f"<span>{look.decision('accept')} <b>{len(scored) - rejected:,}</b></span>",
    ]
    if failed:
        parts.append(f"<span>{len(failed):,} not readable</span>")
    if skipped:
        parts.append(f'<span class="sn-muted">{plural(skipped, "file")} left out</span>')
    look.line(*parts)


def _downloads(batch: Batch) -> None:
    settings = workspace().settings
    key = batching.packing_key(batch.id)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Scores as CSV",
            lambda: batches.scores_table(batch),
            file_name=f"{batch.dataset}-batch-{batch.id}.csv",
            icon=":material/table:",
        )
        if st.button("Pack overlays and maps", icon=":material/folder_zip:", help="A zip with the CSV."):
            batching.start_packing(settings, batch.id)
    job = jobs.status(settings, key)
    if job_progress.watch(job, words=lambda one: job_progress.counted(one, "files")):
        return
    if job is not None and job.state in (JobState.FAILED, JobState.INTERRUPTED):
        incidents.refused(job.error or "Packing was interrupted. Start it again.")
    file = batches.archive(settings, batch)
    if file.exists():
        about = f"{size_text(file.stat().st_size)}, kept for a day"
        look.download(f"Download {file.name}", downloads.archive_address(settings, file), about)


def _browse(batch: Batch, scored: Sequence[BatchPicture]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        shown = st.segmented_control(
            "Show", list(SHOWN), default="all", key="shown", bind="query-params", required=True
        )
        order = st.selectbox("Sort", list(ORDERS), key="order", bind="query-params", width=230)
    listed = [one for one in scored if SHOWN[shown] in (None, one.decision)]
    listed.sort(key=ORDERS[order])
    if not listed:
        st.info("No picture fits this filter. Choose “all”.", icon=":material/filter_alt_off:")
        return
    wanted = st.query_params.get("picture")
    current = next((one for one in listed if one.id == wanted), listed[0])
    left, right = st.columns([4, 8], gap="large")
    with left:
        _grid(listed, current)
    with right:
        _large(batch, listed, current)


def _choose(picture_id: str) -> None:
    st.query_params["picture"] = picture_id


def _grid(listed: Sequence[BatchPicture], current: BatchPicture) -> None:
    pages = max(1, -(-len(listed) // PAGE_SIZE))
    at = listed.index(current) // PAGE_SIZE + 1
    if pages > 1:
        turned = st.pagination(pages, default=at, key=f"page of {at} {len(listed)}", max_visible_pages=5)
        if turned != at:
            _choose(listed[(turned - 1) * PAGE_SIZE].id)
            st.rerun()
    gallery(
        [
            Tile(
                id=one.id,
                source=_tile_url(str(one.overlay)),
                title=f"{one.name}, score {number(one.score)}",
                caption=one.decision or "",
                detail=number(one.score, 2),
                decision=one.decision,
            )
            for one in listed[(at - 1) * PAGE_SIZE : at * PAGE_SIZE]
        ],
        key="batch overlays",
        on_pick=_choose,
        selected=current.id,
        tile_width=80,
    )


@st.cache_data(max_entries=2000, show_spinner=False)
def _tile_url(overlay: str) -> str:
    """A small overlay as a data URL; the file never changes."""
    try:
        with Image.open(overlay) as picture:
            return data_url(shrunk(picture.convert("RGB")))
    except FileNotFoundError:
        return ""


def _large(batch: Batch, listed: Sequence[BatchPicture], current: BatchPicture) -> None:
    place = listed.index(current)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(plain(current.name), width="stretch")
        _step(listed, place - 1, label="Previous", icon=":material/chevron_left:", shortcut="Left")
        _step(listed, place + 1, label="Next", icon=":material/chevron_right:", shortcut="Right")
    look.line(
        look.decision(str(current.decision)),
        f'<span class="sn-number">score <b>{number(current.score)}</b></span>',
        f'<span class="sn-muted">{place + 1} of {len(listed)}</span>',
    )
    st.fragment(_panels)(batch, current)


def _step(listed: Sequence[BatchPicture], place: int, *, label: str, icon: str, shortcut: str) -> None:
    inside = 0 <= place < len(listed)
    target = listed[place].id if inside else ""
    st.button(label, icon=icon, shortcut=shortcut, disabled=not inside, on_click=_choose, args=[target])


@incidents.guarded
def _panels(batch: Batch, current: BatchPicture) -> None:
    """Overlay beside the picture as it came; the slider redraws only these."""
    with workspace().session() as session:
        model = models.get_model(session, batch.model_id)
    data = file_bytes(Path(str(current.file)), current.name)
    pixels = decode(data if current.page is None else page(data, current.name, current.page), current.name)
    anomaly_map = batches.anomaly_map(current)
    control, meaning = st.columns(2, gap="medium", vertical_alignment="bottom")
    strength = control.slider("Heatmap opacity", 0, 100, 60, step=5, format="%d %%", key="batch opacity")
    with meaning:
        legend.show()
    over, side = st.columns([2, 1])
    drawn = heatmap.overlay(pixels, anomaly_map, scale_of(model), strength / 100)
    drawn = heatmap.veil(drawn, seen_by(model, *pixels.shape[:2]))
    over.image(drawn, caption="Heatmap", width="stretch", alt=f"{current.name} with its heatmap")
    side.image(pixels, caption="Original", width="stretch", alt=f"{current.name}, original")
    side.download_button(
        "Map as .npy",
        lambda: Path(str(current.map)).read_bytes(),
        file_name=Path(str(current.map)).name,
        icon=":material/download:",
    )


if __name__ == "__main__":
    show()
