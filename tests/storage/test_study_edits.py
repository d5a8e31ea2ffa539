"""What people change of a study that exists, on every backend."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import datasets, studies, study_edits
from storage.database import session
from storage.errors import BadStudyEdit, DatasetDeleted, StudyNotFound
from storage.records import StudyState, Wanted

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
SPEC = {"trials": 3}


@pytest.fixture
def opened(engine):
    with session(engine) as one:
        yield one


@pytest.fixture
def make_study(opened, new_image):
    version = datasets.create_version(
        opened, name="parts", source="x", source_split=False, images=[new_image("a.png")], now=START
    )

    def make(state=StudyState.QUEUED, **changes):
        study = studies.create_study(
            opened, name="first", dataset_version_id=version.id, spec=SPEC, now=START, **changes
        )
        if state is StudyState.PAUSED:
            studies.set_wanted(opened, study.id, Wanted.PAUSE, START)
        elif state is StudyState.CANCELLED:
            studies.set_wanted(opened, study.id, Wanted.CANCEL, START)
        elif state is not StudyState.QUEUED:
            held = {"study_id": study.id, "worker_id": "w"}
            claimed = studies.claim(opened, now=START, lease_seconds=60, **held)
            if state is not StudyState.RUNNING:
                studies.finish(
                    opened, attempt=claimed.attempt, state=state, error="because", now=START, **held
                )
        return studies.get_study(opened, study.id)

    return make


def test_name_is_changed_in_any_state_and_trimmed(opened, make_study):
    for state in StudyState:
        assert study_edits.rename_study(opened, make_study(state).id, "  second \n try ").name == "second try"


@pytest.mark.parametrize(
    ("name", "rule"), [("  ", "called nothing.*1 to 200"), ("x" * 201, "201 characters.*1 to 200")]
)
def test_name_without_or_with_too_many_characters_is_refused(opened, make_study, name, rule):
    with pytest.raises(BadStudyEdit, match=rule):
        study_edits.rename_study(opened, make_study().id, name)


@pytest.mark.parametrize("state", [state for state in StudyState if state.finished])
def test_ended_study_is_archived_once_and_brought_back(opened, make_study, state):
    study = make_study(state)
    assert study_edits.archive_study(opened, study.id, START).archived_at == START
    assert study_edits.archive_study(opened, study.id, START + timedelta(hours=1)).archived_at == START
    assert study_edits.unarchive_study(opened, study.id).archived_at is None


@pytest.mark.parametrize("state", [state for state in StudyState if not state.finished])
def test_study_that_has_not_ended_is_not_archived(opened, make_study, state):
    with pytest.raises(BadStudyEdit, match=f"is {state}.*cancel it first"):
        study_edits.archive_study(opened, make_study(state).id, START)


def test_moved_up_study_stands_before_all_that_have_not_ended(opened, make_study):
    first, _, last = make_study(priority=4), make_study(priority=9, state=StudyState.COMPLETED), make_study()
    assert study_edits.move_up(opened, last.id).priority == 5
    assert study_edits.move_up(opened, last.id).priority == 5
    assert study_edits.move_up(opened, first.id).priority == 6


def test_ended_study_is_not_moved_up(opened, make_study):
    with pytest.raises(BadStudyEdit, match="completed and waits for no worker"):
        study_edits.move_up(opened, make_study(StudyState.COMPLETED).id)


@pytest.mark.parametrize("state", [StudyState.COMPLETED, StudyState.FAILED])
def test_extended_study_that_had_ended_waits_again_and_can_be_claimed(opened, make_study, state):
    study = make_study(state)
    study_edits.archive_study(opened, study.id, START)
    queued = study_edits.extend_study(opened, study.id, {"trials": 5}, SPEC)
    assert (queued.state, queued.wanted, queued.spec) == (StudyState.QUEUED, Wanted.RUN, {"trials": 5})
    assert (queued.finished_at, queued.error, queued.archived_at) == (None, None, None)
    assert studies.claim(opened, worker_id="w2", now=START, lease_seconds=60).id == study.id


@pytest.mark.parametrize("state", [StudyState.QUEUED, StudyState.PAUSED, StudyState.RUNNING])
def test_extended_study_that_has_not_ended_keeps_its_state(opened, make_study, state):
    study = make_study(state)
    extended = study_edits.extend_study(opened, study.id, {"trials": 5}, SPEC)
    assert (extended.state, extended.wanted, extended.worker_id) == (state, study.wanted, study.worker_id)
    assert extended.spec == {"trials": 5}


def test_cancelled_study_is_not_extended(opened, make_study):
    study = make_study(StudyState.CANCELLED)
    with pytest.raises(BadStudyEdit, match=r"cancelled, for good.*Clone it"):
        study_edits.extend_study(opened, study.id, {"trials": 5}, SPEC)
    running = make_study(StudyState.RUNNING)
    studies.set_wanted(opened, running.id, Wanted.CANCEL, START)
    with pytest.raises(BadStudyEdit, match="cancelled, for good"):
        study_edits.extend_study(opened, running.id, {"trials": 5}, SPEC)


def test_two_who_extend_a_study_at_once_do_not_overwrite_each_other(opened, make_study):
    study = make_study()
    study_edits.extend_study(opened, study.id, {"trials": 5}, SPEC)
    with pytest.raises(BadStudyEdit, match="changed by somebody else"):
        study_edits.extend_study(opened, study.id, {"trials": 4}, SPEC)


def test_study_of_a_deleted_dataset_does_not_wait_again(opened, make_study):
    study = make_study(StudyState.COMPLETED)
    datasets.delete_dataset(opened, "parts", now=START)
    with pytest.raises(DatasetDeleted):
        study_edits.extend_study(opened, study.id, {"trials": 5}, SPEC)


@pytest.mark.parametrize(
    "change",
    [
        lambda opened: study_edits.rename_study(opened, 99, "x"),
        lambda opened: study_edits.archive_study(opened, 99, START),
        lambda opened: study_edits.unarchive_study(opened, 99),
        lambda opened: study_edits.move_up(opened, 99),
        lambda opened: study_edits.set_priority(opened, 99, 1),
        lambda opened: study_edits.extend_study(opened, 99, {}, {}),
    ],
)
def test_study_that_is_not_there_is_said_to_be_missing(opened, make_study, change):
    with pytest.raises(StudyNotFound, match="no study with id 99"):
        change(opened)
