"""Scores that a page sorts by: from memory, from disk, or computed now while the visitor sees how far it is."""

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard import cached
from dashboard.scored import Picture
from dashboard.session import workspace
from dashboard.wording import duration, plain, plural
from storage.records import Model
from storage.workspace import Workspace
from tuning import jobs, scoring
from tuning.jobs import Job, JobState
from tuning.map_cache import map_cache

AT_ONCE = 40  # so many are scored while the visitor waits; more in the background
LIVE_SECONDS = 1.0


def scores(model: Model, pictures: Sequence[Picture], which: str) -> Mapping[str, float] | None:
    """Scores of pictures by pixel digest; None while they are computed, which is then shown.

    Args:
        which: as `tuning.scoring.pictures_of` takes it.
    """
    known = cached.scores_by_model().setdefault(model.id, {})
    missing = [picture for picture in pictures if picture.pixel_digest not in known]
    if missing:
        cache = map_cache(scoring.where(workspace(), which), model)
        known.update(cache.scores(picture.pixel_digest for picture in missing))
        missing = [picture for picture in missing if picture.pixel_digest not in known]
    if not missing:
        return known
    if len(missing) <= AT_ONCE:
        inside = scoring.where(workspace(), which)
        _now(inside, model, missing)
        known.update(map_cache(inside, model).scores(picture.pixel_digest for picture in missing))
        return known
    _in_background(model, which, len(missing))
    return None


def _now(inside: Workspace, model: Model, missing: Sequence[Picture]) -> None:
    from tuning.predictor import map_of

    bar = st.progress(0.0, f"Loading version {model.version} …")
    for done, picture in enumerate(missing, start=1):
        map_of(inside, model, picture)
        bar.progress(done / len(missing), f"Scoring picture {done} of {len(missing)}")
    bar.empty()


def _in_background(model: Model, which: str, missing: int) -> None:
    key = scoring.job_key(model, which)
    settings = workspace().settings
    job = jobs.status(settings, key)
    if job is not None and job.state is JobState.RUNNING:
        _watch(key)
        return
    if job is not None and job.error:
        st.error(plain(job.error), icon=":material/error:")
    st.info(
        f"{plural(missing, 'picture')} have no score under version {model.version} yet. Scoring them goes on while you "
        "look at other pages; what is done stays.",
        icon=":material/hourglass_empty:",
    )
    if st.button(f"Score {plural(missing, 'picture')}", type="primary", key=f"score {key}"):
        scoring.start(workspace(), model, which)
        st.rerun()


def _watch(key: str) -> None:
    settings = workspace().settings

    @st.fragment(run_every=LIVE_SECONDS)
    def live() -> None:
        job = jobs.status(settings, key)
        if job is None or job.state is not JobState.RUNNING:
            st.rerun()
            return
        st.progress(min(1.0, job.done / job.total) if job.total else 0.0, text=plain(_pace(job)))

    live()
    if st.button("Cancel", icon=":material/cancel:", key=f"cancel {key}"):
        jobs.cancel(settings, key)


def _pace(job: Job) -> str:
    if not job.total:
        return "Loading the model …"
    left = f", {duration(job.seconds_left)} left" if job.seconds_left is not None else ""
    return f"Scoring picture {job.done:,} of {job.total:,}{left}"
