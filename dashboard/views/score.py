"""Score: drop pictures or an archive, and see what the champion says of each; batches stay until they are deleted."""

from collections.abc import Sequence
from html import escape

import pandas as pd
import streamlit as st

from dashboard import batch_links, batching, cached, downloads, incidents, maps
from dashboard.components import choosing, job_progress, look
from dashboard.components.gallery import Tile, gallery
from dashboard.components.uploader import uploader
from dashboard.session import WHO, workspace
from dashboard.views import DATASETS, HEATMAPS, STUDIES
from dashboard.wording import moment, number, plain, plural
from storage import datasets, models, staging
from storage.records import Model
from storage.room import size_text
from tuning import batches, jobs
from tuning.batches import Batch, BatchPicture, Results
from tuning.errors import BatchNotFound
from tuning.jobs import JobState

SHOWN = 24  # pictures; page Heatmaps has all
PICKED = "picked picture of a batch"  # in the session, until its page opens


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
        name = choosing.dataset(ordered, clears=["batch"])
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
            marks = len(batches.open_marks(workspace(), batch))
            lost = f", and {plural(marks, 'mark')} that went into no version" if marks else ""
            st.write(f"The pictures of this batch and all that came of them are deleted{lost}.")
            if st.button("Delete the batch", key="delete batch", type="primary"):
                batches.delete(workspace(), batch.id)
                _open(None)
                st.rerun()
    st.caption(
        f"Scored by version {batch.model_version} of {plain(batch.dataset)} with threshold "
        f"{number(batch.threshold)}, {moment(batch.created_at)}."
    )
    job = jobs.status(settings, batches.job_key(batch.id))
    running = job_progress.watch(job, words=job_progress.of_batch)
    if not running and (job is None or job.state is not JobState.DONE):
        if job is not None and job.error:
            incidents.refused(job.error)
        else:
            st.warning("Scoring was interrupted; what is done is kept.", icon=":material/pause_circle:")
        if st.button("Go on", type="primary", icon=":material/play_arrow:"):
            batching.start_scoring(settings, batch.id)
            st.rerun()
    found = cached.batch_results(batch, batch.id, batches.stamp(batch))
    skipped = batches.left_out(batch)
    _summary(found, len(skipped))
    if found.pictures:
        _downloads(batch)
        _browse(batch, found.pictures)
    if found.failed:
        st.markdown(f"**{plural(len(found.failed), 'picture')} could not be scored**")
        rows = [{"picture": one.name, "reason": one.error} for one in found.failed]
        st.dataframe(pd.DataFrame(rows), hide_index=True)
    if skipped:
        with st.expander(f"{plural(len(skipped), 'file')} left out"):
            st.dataframe(
                pd.DataFrame([{"file": one.name, "reason": one.reason} for one in skipped]), hide_index=True
            )


def _summary(found: Results, skipped: int) -> None:
    rejected = sum(one.decision == "reject" for one in found.pictures)
    parts = [
        f"<span>{plural(len(found.pictures), 'picture')} scored</span>",
        f"<span>{look.decision('reject')} <b>{rejected:,}</b></span>",
        f"<span>{look.decision('accept')} <b>{len(found.pictures) - rejected:,}</b></span>",
    ]
    if found.failed:
        parts.append(f"<span>{len(found.failed):,} not readable</span>")
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


def _browse(batch: Batch, pictures: Sequence[BatchPicture]) -> None:
    """The highest scores as small overlays; a click opens one in the viewer of page Heatmaps, beside all others."""
    with workspace().session() as session:
        model = models.get_model(session, batch.model_id)
    highest = sorted(pictures, key=lambda one: (-one.score, one.name))[:SHOWN]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            "**The highest scores**"
            if len(pictures) > SHOWN
            else "**All pictures, the highest score first**",
            width="stretch",
        )
        st.page_link(
            HEATMAPS,
            label=f"Look through {plural(len(pictures), 'picture')} in Heatmaps",
            icon=":material/center_focus_strong:",
            query_params=batch_links.on_heatmaps(batch),
        )
    gallery(
        [
            Tile(
                id=one.id,
                source=maps.address(workspace().settings, "tile.jpg", model, one, batch=batch.id),
                title=f"{one.name}, score {number(one.score)}",
                caption=one.decision,
                detail=number(one.score, 2),
                decision=one.decision,
            )
            for one in highest
        ],
        key="batch overlays",
        on_pick=_pick,
        tile_width=110,
    )
    if picked := st.session_state.pop(PICKED, None):
        st.switch_page(HEATMAPS, query_params=batch_links.on_heatmaps(batch, picked))


def _pick(picture_id: str) -> None:
    st.session_state[PICKED] = picture_id


if __name__ == "__main__":
    show()
