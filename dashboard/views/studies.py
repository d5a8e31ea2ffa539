"""Studies: the list, the form for a new one, and one study live."""

from collections.abc import Sequence
from datetime import datetime
from html import escape

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import cached, charts, following, incidents, theme, wording
from dashboard.components import choosing, look, study_form, study_menu
from dashboard.session import workspace
from dashboard.views import DATASETS, HEATMAPS, MODELS, STUDIES
from storage import datasets, models, studies
from storage.errors import StorageError, StudyNotFound
from storage.records import Model, Study, StudyState, Wanted, now
from tuning import commands, queries, steering
from tuning.queries import TrialRecord
from tuning.spec import KNOBS, StudySpec

LIVE_SECONDS = 2.0
PAGE_SIZE = 20


def show() -> None:
    """Draw the page that the address asks for."""
    if "study" in st.query_params:
        _one(st.query_params["study"])
    elif "new" in st.query_params:
        _new()
    else:
        _all()


def _all() -> None:
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
        known = sorted(studies.list_studies(session), key=lambda study: study.id, reverse=True)
    if not names:
        choosing.none_yet("No study yet", "A study needs a dataset first.")
        st.page_link(DATASETS, label="Datasets", icon=":material/photo_library:")
        return
    with look.top("Studies"):
        if st.button("New study", type="primary", icon=":material/add:"):
            st.switch_page(STUDIES, query_params={"new": "1"})
    archived = sum(study.archived_at is not None for study in known)
    everything = archived > 0 and st.toggle(
        f"Show {archived} archived", key="archived", help="Archived studies are left out of lists."
    )
    found = [study for study in known if everything or study.archived_at is None]
    if not known:
        choosing.none_yet(
            "No study yet",
            "A study tries configurations and keeps the one that best tells anomalous from normal pictures.",
        )
        return
    page = 1
    if len(found) > PAGE_SIZE:
        page = st.pagination(-(-len(found) // PAGE_SIZE), key="page", bind="query-params")
    shown = [study.id for study in found[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]]
    live = any(not study.state.finished for study in found)
    st.fragment(_rows, run_every=LIVE_SECONDS if live else None)(shown)


@incidents.guarded
def _rows(shown: Sequence[int]) -> None:
    with workspace().session() as session:
        found = {study.id: study for study in studies.list_studies(session)}
    for study in (found[study_id] for study_id in shown):
        with st.container(border=True):
            name, progress, link = st.columns([4, 5, 1], vertical_alignment="center")
            with name:
                look.line(f"<b>{escape(study.name)}</b>", look.state(study.state.value))
                about = f"{escape(study.dataset_name)} · {wording.ago(study.created_at, now())}"
                if study.priority:
                    about += f" · priority {study.priority}"
                look.line(
                    f'<span class="sn-muted">{about}</span>',
                    look.note("archived") if study.archived_at else "",
                )
            with progress:
                st.progress(following.fraction_done(study), text=wording.plain(following.status_line(study)))
            with link:
                st.page_link(
                    STUDIES,
                    label="Open",
                    query_params={"dataset": study.dataset_name, "study": str(study.id)},
                )


def _new() -> None:
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
    if not names:
        choosing.none_yet("A study needs a dataset", "Ingest a folder of pictures, or start with the demo.")
        st.page_link(DATASETS, label="Datasets", icon=":material/photo_library:")
        return
    st.title("New study")
    left, right = st.columns([3, 2], gap="large")
    with left:
        name = choosing.dataset(names, width="stretch")
        with workspace().session() as session:
            version = datasets.latest_version(session, name)
        form = st.container()
    with right:
        study_form.explain(version)
    with form:
        spec = study_form.show(version, _like())
    if spec is not None:
        study = commands.launch_study(workspace(), name, spec)
        st.switch_page(STUDIES, query_params={"dataset": name, "study": str(study.id)})


def _like() -> StudySpec | None:
    """The settings of the study that the address names to begin with."""
    if "like" not in st.query_params:
        return None
    study = _study(st.query_params["like"])
    st.caption(f":material/content_copy: Begins with the settings of study “{wording.plain(study.name)}”.")
    return steering.like(study)


def _one(study_id: str) -> None:
    study = _study(study_id)
    st.page_link(STUDIES, label="All studies", icon=":material/arrow_back:")
    live = not study.state.finished
    st.fragment(_progress, run_every=LIVE_SECONDS if live else None)(study.id, live)


def _study(study_id: str) -> Study:
    if not study_id.isdecimal():
        raise StudyNotFound(f"'{study_id}' is no number of a study. Open one from the list of studies.")
    with workspace().session() as session:
        return studies.get_study(session, int(study_id))


@incidents.guarded
def _progress(study_id: int, live: bool) -> None:
    study = _study(str(study_id))
    if live and study.state.finished:
        st.rerun()  # once more as a whole: nothing moves any more, and the candidate is there
    trials = queries.study_trials(workspace(), study)
    link = _header(study)
    _objective(study, trials)
    _outcome(study)
    # Last, because the first question to MLflow takes seconds.
    url = _runs_url(study)
    if url and study.parent_run_id:
        link.link_button("MLflow", f"{url}/{study.parent_run_id}", icon=":material/open_in_new:")
    if trials:
        _trial_table(study, trials, url)


def _header(study: Study) -> DeltaGenerator:
    """Name, buttons, state and progress; answers the place for the link to MLflow."""
    with look.top(study.name):
        study_menu.show(study)
        link = st.empty()
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
    left = following.seconds_left(study, now())
    about = following.status_line(study) + (f", {wording.time_left(left)}" if left is not None else "")
    st.progress(following.fraction_done(study), text=wording.plain(about))
    if "backbone" in study.progress:
        said = wording.backbone(study.progress["backbone"], study.progress.get("stronger_backbone"))
        st.caption(f":material/memory: {wording.plain(said)}")
    if study.error:
        incidents.refused(study.error, icon=":material/error:")
    orphaned = following.orphaned(study, now())
    if (orphaned or study.state is StudyState.QUEUED) and not queries.worker_alive(workspace()):
        st.warning(
            "No worker is running, so nobody takes this study. Start one: `simplenet worker`",
            icon=":material/hourglass:",
        )
    elif orphaned:
        st.info("Its worker died; the next free one goes on with it.", icon=":material/hourglass:")
    return link


def _objective(study: Study, trials: Sequence[TrialRecord]) -> None:
    if not any(trial.intermediate for trial in trials):
        if not study.state.finished:
            st.caption("The first values appear when the first trial is under way.")
        return
    points = [_point(trial) for trial in trials]
    name = wording.objective(study.spec["objective"])
    best = max(
        (point for point in points if point.state == "completed"), key=lambda p: p.value or 0.0, default=None
    )
    left, right = st.columns(2)
    with left.container(border=True):
        st.markdown(
            f"**{name} of each trial**",
            help=f"On the validation pictures. {wording.objective_meaning(study.spec['objective'])}",
        )
        st.plotly_chart(charts.objective_history(points, name), config=charts.MODE_BAR, key="history")
    with right.container(border=True):
        st.markdown(f"**{name} by epoch**", help="The best trial in front; dotted lines are pruned trials.")
        highlighted = None if best is None else best.number
        st.plotly_chart(charts.epoch_curves(points, name, highlighted), config=charts.MODE_BAR, key="curves")


def _point(trial: TrialRecord) -> charts.TrialPoint:
    last = trial.intermediate[max(trial.intermediate)] if trial.intermediate else None
    return charts.TrialPoint(
        number=trial.number,
        state=trial.state,
        value=trial.value if trial.value is not None else last,
        label=wording.configuration(trial.params) + (" (the paper's)" if trial.from_paper else ""),
        curve=trial.intermediate,
    )


def _outcome(study: Study) -> None:
    """The model that came of the study, with the way to its heatmaps."""
    if study.state is not StudyState.COMPLETED:
        return
    with workspace().session() as session:
        made = [
            model for model in models.list_models(session, study.dataset_name) if model.study_id == study.id
        ]
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


def _trial_table(study: Study, trials: Sequence[TrialRecord], url: str | None) -> None:
    rows = pd.DataFrame(
        {
            "trial": [trial.number + 1 for trial in trials],
            "state": [f"{theme.STATE_SHAPES.get(trial.state, '')} {trial.state}" for trial in trials],
            "value": [_point(trial).value for trial in trials],
            "σ": [_parameter(trial, "noise_std") for trial in trials],
            "layers": [wording.layers(str(trial.params.get("layers", ""))) for trial in trials],
            "adaptor depth": [_parameter(trial, "adaptor_depth") for trial in trials],
            **_knobs(trials),
            "duration": [wording.duration(_seconds(trial, now())) for trial in trials],
            "run": [f"{url}/{trial.run_id}" if url and trial.run_id else None for trial in trials],
            "note": ["the paper's settings" if trial.from_paper else (trial.error or "") for trial in trials],
        }
    )
    st.subheader("Trials")
    st.dataframe(
        rows.iloc[::-1],
        hide_index=True,
        height="auto",
        column_config={
            "value": st.column_config.NumberColumn(wording.objective(study.spec["objective"]), format="%.3f"),
            "σ": st.column_config.NumberColumn(format="%.4f"),
            "run": st.column_config.LinkColumn(display_text="open in MLflow"),
            "note": st.column_config.TextColumn(width="medium"),
        },
    )


def _knobs(trials: Sequence[TrialRecord]) -> dict[str, list[str]]:
    """A column for every further setting that the trials searched."""
    names = [name for name in KNOBS if any(name in trial.params for trial in trials)]
    return {
        wording.knob(name).lower(): [wording.knob_value(trial.params.get(name, "")) for trial in trials]
        for name in names
    }


def _parameter(trial: TrialRecord, name: str) -> float | None:
    value = trial.params.get(name)
    return None if value is None else float(value)


def _seconds(trial: TrialRecord, moment: datetime) -> float | None:
    if trial.duration_seconds is not None or trial.started_at is None or trial.state != "running":
        return trial.duration_seconds
    return (moment - trial.started_at).total_seconds()


def _runs_url(study: Study) -> str | None:
    """Where the study's runs are in the MLflow UI; None while MLflow's database can not be reached."""
    try:
        return cached.experiment_url(study.dataset_name)
    except StorageError as error:
        st.caption(f"No links to MLflow: {wording.plain(str(error))}")
        return None


if __name__ == "__main__":
    show()
