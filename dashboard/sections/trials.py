"""The trials of a study as a table to choose from: several to compare, one to look at."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from dashboard import incidents, study_trials, theme, wording
from dashboard.components import look
from dashboard.session import workspace
from dashboard.views import COMPARE
from storage import studies
from storage.records import Study, now
from tuning import jobs, queries, repeating
from tuning.compare import MOST
from tuning.jobs import JobState
from tuning.knobs import KNOBS
from tuning.queries import TrialRecord

CHOSEN = "trials"  # parameter of the address: numbers of the chosen trials, from 1
NOTE_LENGTH = 120  # characters of an error in the table; the whole of it stands below
FAILED_SHOWN = 20  # errors below the table, the latest


@incidents.guarded
def show(study_id: int, waiting: bool) -> None:
    """Draw the table, what can be done with the chosen trials, and the errors of those that failed.

    Args:
        waiting: a trial was being trained again when the page was drawn.
    """
    if waiting and not is_any_repeated():
        st.rerun()
    with workspace().session() as session:
        study = studies.get_study(session, study_id)
    found = queries.study_trials(workspace(), study)
    if not found:
        return
    st.subheader("Trials")
    chosen = _chosen(found)
    _table(study, found, chosen)
    _compare(study, chosen)
    if len(chosen) == 1:
        _trial(study, next(trial for trial in found if trial.number == chosen[0]))
    _failures([trial for trial in found if trial.state == "failed" and trial.error])


def _chosen(found: Sequence[TrialRecord]) -> list[int]:
    """Numbers, from 0, of the trials that the address names and that exist."""
    known = {trial.number for trial in found}
    named = st.query_params.get(CHOSEN, "").split(",")
    numbers = [int(number) - 1 for number in named if number.isdecimal()]
    return [number for number in dict.fromkeys(numbers) if number in known]


def _table(study: Study, found: Sequence[TrialRecord], chosen: Sequence[int]) -> None:
    shown = list(reversed(found))  # the latest on top
    # A key per length: rows move down when a trial begins, and the browser remembers rows, not trials.
    key = f"trials of {study.id}, {len(shown)}"

    def choose() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        numbers = sorted(shown[row].number + 1 for row in rows if row < len(shown))
        if numbers:
            st.query_params[CHOSEN] = ",".join(map(str, numbers))
        else:
            st.query_params.pop(CHOSEN, None)

    st.dataframe(
        _rows(shown),
        hide_index=True,
        height="auto",
        key=key,
        on_select=choose,
        selection_mode="multi-row",
        selection_default={
            "selection": {
                "rows": [row for row, trial in enumerate(shown) if trial.number in chosen],
                "columns": [],
                "cells": [],
            }
        },
        column_config={
            "value": st.column_config.NumberColumn(wording.objective(study.spec["objective"]), format="%.3f"),
            "σ": st.column_config.NumberColumn(format="%.4f"),
            "latency, ms": st.column_config.NumberColumn(format="%.1f"),
            "run": st.column_config.LinkColumn(display_text="open in MLflow"),
            "note": st.column_config.TextColumn(width="medium"),
        },
    )


def _rows(shown: Sequence[TrialRecord]) -> pd.DataFrame:
    columns = {
        "trial": [trial.number + 1 for trial in shown],
        "state": [f"{theme.STATE_SHAPES.get(trial.state, '')} {trial.state}" for trial in shown],
        "value": [study_trials.last_value(trial) for trial in shown],
        "σ": [_number(trial, "noise_std") for trial in shown],
        "layers": [wording.layers(str(trial.params.get("layers", ""))) for trial in shown],
        "adaptor depth": [_number(trial, "adaptor_depth") for trial in shown],
        **_knobs(shown),
        "latency, ms": [trial.latency_ms for trial in shown],
        "duration": [wording.duration(study_trials.seconds_so_far(trial, now())) for trial in shown],
        "run": [queries.run_url(workspace(), trial.run_id) if trial.run_id else None for trial in shown],
        "note": [_note(trial) for trial in shown],
    }
    if all(latency is None for latency in columns["latency, ms"]):
        del columns["latency, ms"]
    return pd.DataFrame(columns)


def _knobs(shown: Sequence[TrialRecord]) -> dict[str, list[str]]:
    """A column for every further setting that the trials searched."""
    names = [name for name in ("backbone", *KNOBS) if any(name in trial.params for trial in shown)]
    return {
        wording.knob(name).lower(): [wording.knob_value(trial.params.get(name, "")) for trial in shown]
        for name in names
    }


def _number(trial: TrialRecord, name: str) -> float | None:
    value = trial.params.get(name)
    return None if value is None else float(value)


def _note(trial: TrialRecord) -> str:
    if trial.from_paper:
        return "the paper's settings"
    if trial.value is not None and not trial.within_limits:
        return "above the latency limit: it can't win"
    if trial.known_good:
        return "known good with this noise"
    first = (trial.error or "").split("\n")[0]
    return first if len(first) <= NOTE_LENGTH else f"{first[: NOTE_LENGTH - 1]}…"


def _compare(study: Study, chosen: Sequence[int]) -> None:
    fits = 2 <= len(chosen) <= MOST
    with st.container(horizontal=True, vertical_alignment="center"):
        st.page_link(
            COMPARE,
            label=f"Compare {wording.plural(len(chosen), 'trial')}" if fits else "Compare",
            icon=":material/compare:",
            query_params={
                "dataset": study.dataset_name,
                "of": ",".join(f"{study.id}.{number + 1}" for number in chosen),
            },
            disabled=not fits,
        )
        if len(chosen) > MOST:
            st.caption(f"{len(chosen)} trials are chosen; at most {MOST} stand side by side.")
        elif not fits:
            st.caption(
                f"Choose 2 to {MOST} trials at their left edge to compare them, or one to see more of it."
            )


def _trial(study: Study, trial: TrialRecord) -> None:
    """All of one trial, and training it again."""
    with st.container(border=True):
        look.line(f"<b>Trial {trial.number + 1}</b>", look.state(trial.state))
        facts = [
            ("Configuration", wording.configuration(trial.config or trial.params)),
            (wording.objective(study.spec["objective"]), wording.number(study_trials.last_value(trial))),
            ("Ran on", study_trials.place(trial)),
            ("Began", wording.moment(trial.started_at)),
            ("Duration", wording.duration(study_trials.seconds_so_far(trial, now()))),
        ]
        if trial.latency_ms is not None:
            facts.append(("Latency", f"{trial.latency_ms:.1f} ms a picture"))
        look.facts(facts)
        with st.container(horizontal=True, vertical_alignment="center"):
            if trial.run_id is not None:
                url = queries.run_url(workspace(), trial.run_id)
                st.link_button("Run in MLflow", url, icon=":material/open_in_new:", type="tertiary")
            if trial.run_id is not None and trial.state == "completed":
                repeat(trial.run_id, f"trial {trial.number + 1}")
        if trial.config:
            with st.expander("Whole configuration"):
                st.json(dict(trial.config), expanded=True)


def repeat(run_id: str, what: str) -> None:
    """A button that trains a trial again in the background and compares; below it, how far it is or what came of it.

    Whoever draws it draws it again while `is_repeated(run_id)`.

    Args:
        what: the trial, for people: 'trial 3'.
    """
    settings = workspace().settings
    job = jobs.status(settings, repeating.job_key(run_id))
    running = job is not None and job.state is JobState.RUNNING
    pressed = st.button(
        "Reproduce",
        icon=":material/replay:",
        key=f"repeat {run_id}",
        disabled=running,
        help=f"Trains {what} again from what its run holds, compares value, figures and weights with the recorded "
        "ones, and puts the weights into its run, so that heatmaps can be compared.",
    )
    if pressed:
        repeating.start(settings, run_id)
        st.rerun()
    if job is None:
        return
    if running:
        steps = f", {job.done} of {job.total}" if job.total else ""
        done = min(1.0, job.done / job.total) if job.total else 0.0
        st.progress(done, text=wording.plain(f"{job.text or 'starting'}{steps}"))
    elif job.state is JobState.DONE:
        (st.success if job.result["equal"] else st.warning)(wording.plain(str(job.result["verdict"])))
    else:
        incidents.refused(job.error or f"Training {what} again was {job.state.value}. Start it again.")


def is_repeated(run_id: str) -> bool:
    """Whether a trial is being trained again."""
    return jobs.is_running(workspace().settings, repeating.job_key(run_id))


def is_any_repeated() -> bool:
    """Whether any trial is being trained again, so that its bar should move."""
    settings = workspace().settings
    return any(jobs.is_running(settings, key) for key in jobs.keys(settings, repeating.PREFIX))


def _failures(failed: Sequence[TrialRecord]) -> None:
    """The whole error of each trial that failed."""
    for trial in failed[-FAILED_SHOWN:][::-1]:
        first = (trial.error or "").split("\n")[0]
        title = first if len(first) <= NOTE_LENGTH else f"{first[: NOTE_LENGTH - 1]}…"
        with st.expander(wording.plain(f"Trial {trial.number + 1} failed: {title}"), icon=":material/error:"):
            st.code(trial.error or "", language=None, wrap_lines=True)
            if trial.run_id is not None:
                st.link_button(
                    "Where it came from, in MLflow",
                    queries.run_url(workspace(), trial.run_id),
                    icon=":material/open_in_new:",
                    type="tertiary",
                )
    if len(failed) > FAILED_SHOWN:
        st.caption(f"{len(failed) - FAILED_SHOWN} more failed; MLflow has their errors.")
