"""The end of what a worker logs of a study, in the database: bounded, seldom written, whatever it holds."""

import logging

import pytest
from sqlalchemy import text

from storage.errors import DatabaseUnavailable
from tuning import study_log
from tuning.commands import launch_study
from tuning.study_log import KEPT_BYTES, KEPT_LINES, as_lines, last_entries, logged

logger = logging.getLogger("tuning.test")


@pytest.fixture
def study(workspace, parts, make_spec, caplog):
    caplog.set_level("INFO")
    return launch_study(workspace, "parts", make_spec())


def test_lines_reach_the_database_seldom_and_at_the_end(workspace, study, monkeypatch):
    with logged(workspace, study.id, "w", "first") as log:
        logger.info("one")
        log.keep()
        logger.info("two")
        log.keep()
        assert len(as_lines(last_entries(workspace, study.id))) == 1, "written a moment ago"
        monkeypatch.setattr(study_log, "KEEP_SECONDS", 0)
        log.keep()
        assert len(as_lines(last_entries(workspace, study.id))) == 2
        logger.info("three")
    assert [line.split()[-1] for line in as_lines(last_entries(workspace, study.id))] == [
        "one",
        "two",
        "three",
    ]


def test_lines_that_were_not_written_are_written_the_next_time(workspace, study, monkeypatch):
    monkeypatch.setattr(study_log, "KEEP_SECONDS", 0)

    def rename(table, name):
        with workspace.session() as session:
            session.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))

    with logged(workspace, study.id, "w", "first") as log:
        logger.info("one")
        rename("study_logs", "away")
        with pytest.raises(DatabaseUnavailable):
            log.keep()
        rename("away", "study_logs")
        log.keep()
        assert len(last_entries(workspace, study.id)) == 1


def test_log_is_bounded_in_lines_and_in_bytes(workspace, study):
    with logged(workspace, study.id, "short", "first"):
        for number in range(2 * KEPT_LINES):
            logger.info("%d\nand more", number)
    entries = last_entries(workspace, study.id)
    assert len(as_lines(entries)) == KEPT_LINES
    assert entries[-1].text == f"INFO {2 * KEPT_LINES - 1}\nand more"
    with logged(workspace, study.id, "long", "second"):
        for number in range(100):
            logger.info("%d %s", number, "ü" * 1000)
        logger.info("%s", "ü" * KEPT_BYTES)
    held = [entry for entry in last_entries(workspace, study.id) if entry.worker_id == "long"]
    assert 0 < sum(len(entry.text.encode()) for entry in held) <= KEPT_BYTES + 4
    assert len(as_lines(last_entries(workspace, study.id))) <= KEPT_LINES


def test_names_of_files_that_are_no_text_do_not_stop_the_log(workspace, study):
    with logged(workspace, study.id, "w", "first"):
        logger.info("bad name %s\0", b"\xff.png".decode("utf-8", "surrogateescape"))
    (entry,) = last_entries(workspace, study.id)
    assert "\\udcff.png" in entry.text
