"""One study live: state, what runs now and where, the values so far, and the model that came of it.

Each part is a fragment of its own that draws itself again while the study moves; what costs more to compute is folded
(`dashboard.sections.mattering`) and the address remembers what is open. All that is shown comes from the databases, so
another browser or another day shows the same.
"""

from collections.abc import Sequence
from html import escape

import streamlit as st

from dashboard import cached, charts, following, incidents, study_trials, wording
from dashboard.components import look, study_menu
from dashboard.sections import mattering, trials
from dashboard.session import workspace
from dashboard.views import HEATMAPS, MODELS
from storage import models, slots, studies, workers
from storage.records import Model, Study, StudyState, TrialSlot, Wanted, Worker
from tuning import queries
from tuning.queries import TrialRecord

LIVE_SECONDS = 2.0  # between two looks at the state
CHART_SECONDS = 4.0  # between two drawings of charts and table


def show(study: Study) -> None:
    """Draw the page of a study."""
    moving = not study.state.finished and study.state is not StudyState.PAUSED
    waiting = not study.state.finished  # a paused one can be resumed from another browser
    st.fragment(_state, run_every=LIVE_SECONDS if waiting else None)(study.id, study.state)
    every = CHART_SECONDS if moving else None
    st.fragment(_values, run_every=every)(study.id)
    st.fragment(_outcome, run_every=every)(study.id, study.dataset_name)
    waiting = trials.is_any_repeated()
    st.fragment(trials.show, run_every=1.0 if waiting else every)(study.id, waiting)
    st.fragment(mattering.show)(study, every=every)  # so that unfolding a section draws nothing else anew


@incidents.guarded
def _state(study_id: int, drawn: StudyState) -> None:
    study = _study(study_id)
    if study.state is not drawn:
        st.rerun()  # as a whole: other parts move now, or none any more
    with look.top(study.name):
        study_menu.show(study)
        if study.parent_run_id:
            url = queries.run_url(workspace(), study.parent_run_id)
            st.link_button("MLflow", url, icon=":material/open_in_new:")
    version = cached.version(study.dataset_version_id)
    badges = [look.state(study.state.value), look.note(f"{study.dataset_name} · version {version.number}")]
    if not version.has_defects:
        badges.append(
            look.note(
                "synthetic validation",
                title="No picture is labelled anomalous: defects are planted to judge models by",
            )
        )
    if study.wanted is not Wanted.RUN and study.state is StudyState.RUNNING:
        badges.append(look.note(f"{study.wanted.value} asked for; waits for the present step"))
    look.line(*badges)
    left = following.seconds_left(study)
    about = following.status_line(study, with_epoch=False)
    about += f", {wording.time_left(left)}" if left is not None else ""
    look.progress(following.fraction_done(study), about)
    if study.state is StudyState.RUNNING:
        _running(study)
    if "backbone" in study.progress:
        said = wording.backbone(study.progress["backbone"], study.progress.get("stronger_backbone"))
        st.caption(f":material/memory: {wording.plain(said)}")
    if study.error:
        incidents.refused(study.error, icon=":material/error:")
    _abandoned(study)


def _running(study: Study) -> None:
    """A bar for each trial that runs now, with its worker and device."""
    with workspace().session() as session:
        taken = [slot for slot in slots.list_slots(session, study.id) if slot.worker_id is not None]
        known = {worker.id: worker for worker in workers.list_workers(session)}
    for slot in taken:
        st.progress(_fraction(slot), text=wording.plain(_running_line(slot, known)))
    if not taken and study.worker_id in known:
        worker = known[study.worker_id]
        st.caption(
            wording.plain(
                f"Worker {worker.id} on {study_trials.device_of(worker)}, {following.status_line(study)}"
            )
        )
    if not queries.shares_studies(workspace().settings):
        st.caption(
            ":material/engineering: One worker at a time runs this study, because the databases are SQLite; on "
            "PostgreSQL several share it."
        )


def _running_line(slot: TrialSlot, known: dict[str, Worker]) -> str:
    """'trial 7: epoch 3 of 10 · worker host-4711-ab12cd on cpu, 2 threads'."""
    progress = slot.progress
    number = "next trial" if slot.trial_number is None else f"trial {slot.trial_number + 1}"
    epochs = progress.get("epochs")
    step = f"epoch {progress.get('epoch', 0)} of {epochs}" if epochs else "preparing"
    worker = known.get(slot.worker_id or "")
    where = f" on {study_trials.device_of(worker)}" if worker else ""
    return f"{number}: {step} · worker {slot.worker_id}{where}"


def _fraction(slot: TrialSlot) -> float:
    epochs = int(slot.progress.get("epochs") or 0)
    return min(1.0, int(slot.progress.get("epoch", 0)) / epochs) if epochs else 0.0


def _abandoned(study: Study) -> None:
    orphaned = following.orphaned(study, queries.common_now(workspace()))
    if (orphaned or study.state is StudyState.QUEUED) and not queries.worker_alive(workspace()):
        st.warning(
            "No worker is running, so nobody takes this study. Start one: `simplenet worker`",
            icon=":material/hourglass:",
        )
    elif orphaned:
        st.info("Its worker died; the next free one goes on with it.", icon=":material/hourglass:")


@incidents.guarded
def _values(study_id: int) -> None:
    """Value of each trial, and by epoch."""
    study = _study(study_id)
    found = queries.study_trials(workspace(), study)
    if not any(trial.intermediate or trial.value is not None for trial in found):
        if not study.state.finished:
            st.caption("The first values appear when the first trial is under way.")
        return
    _history(study, found)


def _history(study: Study, found: Sequence[TrialRecord]) -> None:
    points = study_trials.points(found)
    name = wording.objective(study.spec["objective"])
    left, right = st.columns(2)
    with left.container(border=True):
        st.markdown(
            f"**{name} of each trial**",
            help=f"On the validation pictures. {wording.objective_meaning(study.spec['objective'])}",
        )
        st.plotly_chart(charts.objective_history(points, name), config=charts.MODE_BAR, key="history")
    with right.container(border=True):
        st.markdown(f"**{name} by epoch**", help="The best trial in front; dotted lines are pruned trials.")
        curves = charts.epoch_curves(points, name, study_trials.best_number(found))
        st.plotly_chart(curves, config=charts.MODE_BAR, key="curves")


@incidents.guarded
def _outcome(study_id: int, dataset_name: str) -> None:
    """The model that came of the study, with the way to its heatmaps."""
    with workspace().session() as session:
        made = [model for model in models.list_models(session, dataset_name) if model.study_id == study_id]
    for model in made:
        _model(model)


def _model(model: Model) -> None:
    from dashboard.results import test_sentence

    with st.container(border=True):
        left, right = st.columns([3, 2], vertical_alignment="center")
        sentence = escape(test_sentence(model.figures))
        left.html(
            f"<b>Trial {model.trial_number + 1} became model version {model.version} ({model.state.value}).</b><br>"
            f'<span class="sn-muted">{escape(wording.configuration(model.config))} · {sentence}</span>'
        )
        with right, st.container(horizontal=True, horizontal_alignment="right"):
            of_dataset = {"dataset": model.dataset_name}
            st.page_link(
                HEATMAPS, label="Heatmaps", icon=":material/center_focus_strong:", query_params=of_dataset
            )
            st.page_link(MODELS, label="Model", icon=":material/workspace_premium:", query_params=of_dataset)


def _study(study_id: int) -> Study:
    with workspace().session() as session:
        return studies.get_study(session, study_id)
