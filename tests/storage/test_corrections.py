"""What is kept of a dataset besides its versions: corrections, measures, checkups, reports, history, deletion."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from storage import checkups, datasets, edits, events, ingests, measures, models
from storage.database import session
from storage.errors import (
    BadEdit,
    BadVersion,
    DatasetDeleted,
    DatasetInUse,
    DatasetNotFound,
    VersionChanged,
    VersionNotFound,
)
from storage.records import DatasetVersion, Edit, Ingest, Label, Remark, Role, Skipped, Study, Wanted
from storage.studies import create_study, set_wanted

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
A, B = "a" * 64, "b" * 64

MakeVersion = Callable[..., DatasetVersion]


def test_corrections_of_one_picture_add_up_and_the_last_wins(
    engine: Engine, make_version: MakeVersion
) -> None:
    make_version("plates")
    with session(engine) as opened:
        first = Edit(pixel_digest=A, label=Label.ANOMALOUS, defect_type="dent")
        edits.put_edits(opened, "plates", [first], who="ann", now=START)
        edits.put_edits(opened, "plates", [Edit(pixel_digest=A, mask_digest=B)], who="ben", now=START)
    with session(engine) as opened:
        assert edits.list_edits(opened, "plates") == [
            Edit(pixel_digest=A, label=Label.ANOMALOUS, defect_type="dent", mask_digest=B)
        ]
        edits.put_edits(opened, "plates", [Edit(pixel_digest=A, label=Label.NORMAL)], who="ann", now=START)
        # A normal picture has neither mask nor defect type: both are forgotten with the label they belonged to.
        assert edits.list_edits(opened, "plates") == [Edit(pixel_digest=A, label=Label.NORMAL)]
        with pytest.raises(BadEdit, match="waits to be labelled normal and is given a mask"):
            edits.put_edits(opened, "plates", [Edit(pixel_digest=A, mask_digest=B)], who="ben", now=START)


def test_corrections_can_be_forgotten_one_by_one_or_all(engine: Engine, make_version: MakeVersion) -> None:
    make_version("plates")
    both = [Edit(pixel_digest=A, remove=True), Edit(pixel_digest=B, remove=True)]
    with session(engine) as opened:
        edits.put_edits(opened, "plates", both, who="ann", now=START)
        edits.discard_edits(opened, "plates", [A])
        assert edits.list_edits(opened, "plates") == [both[1]]
        edits.discard_edits(opened, "plates")
        assert edits.list_edits(opened, "plates") == []


def test_normal_picture_with_a_defect_type_is_no_correction(
    engine: Engine, make_version: MakeVersion
) -> None:
    make_version("plates")
    wrong = Edit(pixel_digest=A, label=Label.NORMAL, defect_type="dent")
    with pytest.raises(BadEdit, match="only anomalous pictures"), session(engine) as opened:
        edits.put_edits(opened, "plates", [wrong], who="ann", now=START)


def test_measures_come_back_for_the_images_of_a_version(engine: Engine, make_version: MakeVersion) -> None:
    version = make_version("plates", "a.png", "b.png")
    with session(engine) as opened:
        known = datasets.list_images(opened, version.id)[0].pixel_digest
        one = measures.Measured(values={"brightness": 0.5}, signature=b"\x00\xff")
        measures.put_measures(opened, {known: one, "f" * 64: one})
    with session(engine) as opened:
        other = measures.Measured(values={"brightness": 0.9}, signature=b"")
        measures.put_measures(opened, {known: other})
        assert measures.version_measures(opened, version.id) == {known: one}


def test_a_new_checkup_replaces_the_former(engine: Engine, make_version: MakeVersion) -> None:
    version = make_version("plates")
    with session(engine) as opened:
        assert checkups.get_checkup(opened, version.id) is None
        checkups.put_checkup(opened, version.id, {"findings": [1]}, now=START)
        checkups.put_checkup(opened, version.id, {"findings": []}, now=START)
    with session(engine) as opened:
        assert checkups.get_checkup(opened, version.id) == checkups.Checkup(
            findings={"findings": []}, created_at=START
        )
    with pytest.raises(VersionNotFound), session(engine) as opened:
        checkups.put_checkup(opened, 404, {}, now=START)


def test_accepted_findings_are_of_the_dataset_and_can_be_reopened(
    engine: Engine, make_version: MakeVersion
) -> None:
    make_version("plates")
    make_version("tiles")
    with session(engine) as opened:
        for _ in range(2):
            checkups.accept_finding(opened, "plates", "blur", A, who="ann", now=START)
        assert checkups.accepted_findings(opened, "plates") == {("blur", A)}
        assert checkups.accepted_findings(opened, "tiles") == set()
        checkups.reopen_finding(opened, "plates", "blur", A)
        assert checkups.accepted_findings(opened, "plates") == set()


def test_report_of_a_reading_stays_with_the_version_that_it_made(
    engine: Engine, make_version: MakeVersion
) -> None:
    version = make_version("plates")
    report = Ingest(
        skipped=(Skipped(name="c.png", reason="it is damaged"),),
        remarks=(Remark(pixel_digest=A, kind="empty mask", text="nothing is marked"),),
        notes=("2 files left out",),
    )
    with session(engine) as opened:
        assert ingests.get_ingest(opened, version.id) == Ingest()
        ingests.put_ingest(opened, version.id, report)
        ingests.put_ingest(opened, version.id, Ingest())
    with session(engine) as opened:
        assert ingests.get_ingest(opened, version.id) == report
        assert ingests.dataset_remarks(opened, "plates") == report.remarks


def test_deleted_dataset_is_hidden_and_comes_back_whole(engine: Engine, make_version: MakeVersion) -> None:
    version = make_version("plates")
    make_version("tiles")
    with session(engine) as opened:
        datasets.delete_dataset(opened, "plates", now=START)
        events.record_event(opened, version.dataset_id, "deleted", who="ann", now=START)
    with session(engine) as opened:
        assert [dataset.name for dataset in datasets.list_datasets(opened)] == ["tiles"]
        assert [dataset.name for dataset in datasets.list_datasets(opened, deleted=True)] == ["plates"]
        with pytest.raises(DatasetDeleted, match=r"deleted on 2030-01-01 at 12:00 UTC\. Restore it"):
            datasets.get_dataset(opened, "plates")
        assert [event.what for event in events.list_events(opened, "plates")] == ["deleted"]
    with pytest.raises(DatasetDeleted):
        make_version("plates", "z.png")
    with session(engine) as opened:
        assert datasets.restore_dataset(opened, "plates").latest == version
    assert make_version("plates", "z.png").number == 2
    with pytest.raises(DatasetNotFound), session(engine) as opened:
        datasets.restore_dataset(opened, "nuts")


def test_dataset_with_a_champion_is_not_deleted(engine: Engine, make_study: Callable[..., Study]) -> None:
    study = make_study("plates")
    with session(engine) as opened:
        set_wanted(opened, study.id, Wanted.CANCEL, START)
        model = models.create_model(
            opened,
            dataset_version_id=study.dataset_version_id,
            study_id=study.id,
            trial_number=0,
            run_id="r",
            version=3,
            config={},
            figures={},
            now=START,
        )
        models.promote(opened, model_id=model.id, who="ann", why="best", now=START)
    with pytest.raises(DatasetInUse, match="model version 3 is its champion"), session(engine) as opened:
        datasets.delete_dataset(opened, "plates", now=START)


def test_dataset_with_a_waiting_study_is_not_deleted(
    engine: Engine, make_study: Callable[..., Study]
) -> None:
    study = make_study("plates")
    with pytest.raises(DatasetInUse, match=f"study {study.id} has not ended"), session(engine) as opened:
        datasets.delete_dataset(opened, "plates", now=START)
    with session(engine) as opened:
        set_wanted(opened, study.id, Wanted.CANCEL, START)
        datasets.delete_dataset(opened, "plates", now=START)


def test_version_made_meanwhile_is_not_overwritten(
    engine: Engine, make_version: MakeVersion, new_image: Callable[..., object]
) -> None:
    make_version("plates", "a.png")
    make_version("plates", "a.png", "b.png")
    with pytest.raises(VersionChanged, match="has version 2 by now"), session(engine) as opened:
        datasets.create_version(
            opened,
            name="plates",
            source="",
            source_split=False,
            images=[new_image("c.png")],
            now=START,
            after=1,
        )


def test_version_is_found_by_its_number_and_can_be_named(engine: Engine, make_version: MakeVersion) -> None:
    make_version("plates", "a.png")
    with session(engine) as opened:
        first = datasets.numbered_version(opened, "plates", 1)
        assert (
            datasets.name_version(opened, first.id, "  before the\nnew lamp ").title == "before the new lamp"
        )
        assert datasets.name_version(opened, first.id, " ").title is None
        with pytest.raises(BadVersion, match="at most 80"):
            datasets.name_version(opened, first.id, "x" * 81)
        with pytest.raises(VersionNotFound, match="it has 1"):
            datasets.numbered_version(opened, "plates", 2)


def test_known_roles_remember_what_was_taken_out(
    engine: Engine, make_version: MakeVersion, new_image: Callable[..., object]
) -> None:
    make_version("plates", "a.png", "b.png")
    with session(engine) as opened:
        moved = new_image("a.png", role=Role.TEST)
        datasets.create_version(
            opened, name="plates", source="", source_split=False, images=[moved], now=START
        )
        known = datasets.known_roles(opened, "plates")
    assert sorted(known.values()) == [Role.TEST, Role.TRAIN]


def test_thousands_of_corrections_are_put_and_taken_back(engine: Engine, make_version: MakeVersion) -> None:
    make_version("plates")
    digests = [f"{number:064x}" for number in range(1200)]  # more than two statements take
    statements: list[str] = []

    def count(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", count)
    try:
        with session(engine) as opened:
            marked = [Edit(pixel_digest=digest, label=Label.ANOMALOUS) for digest in digests]
            marked.append(Edit(pixel_digest=digests[0], remove=True))
            edits.put_edits(opened, "plates", marked, who="ann", now=START)
        with session(engine) as opened:
            typed = [Edit(pixel_digest=digest, defect_type="dent") for digest in digests[1:]]
            edits.put_edits(opened, "plates", typed, who="ben", now=START)
            found = edits.list_edits(opened, "plates")
            assert (len(found), found[0].remove) == (1200, True)
            assert {(edit.label, edit.defect_type) for edit in found[1:]} == {(Label.ANOMALOUS, "dent")}
            edits.discard_edits(opened, "plates", digests[1:])
            assert [edit.pixel_digest for edit in edits.list_edits(opened, "plates")] == digests[:1]
    finally:
        event.remove(engine, "before_cursor_execute", count)
    assert len(statements) < 30


def at_once(*works: Callable[[], object]) -> list[object]:
    """What each of several threads answers, or the error that it ends with."""

    def one(work: Callable[[], object]) -> object:
        try:
            return work()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(one, works))


def test_measures_of_the_same_pictures_are_put_by_two_in_other_orders(engine: Engine) -> None:
    one = measures.Measured(values={"brightness": 0.5}, signature=bytes(1024))
    there = [f"{number:064x}" for number in range(4000)]
    both = threading.Barrier(2)

    def put(digests: list[str]) -> None:
        with session(engine) as opened:
            both.wait()
            measures.put_measures(opened, dict.fromkeys(digests, one))

    assert at_once(lambda: put(there), lambda: put(there[::-1])) == [None, None]


def beside_another(engine: Engine, write: Callable[[Session], object]) -> list[object]:
    """Write the same in two sessions, of which the second begins before the first ends."""
    written = threading.Event()

    def first() -> None:
        with session(engine) as opened:
            write(opened)
            written.set()
            threading.Event().wait(0.3)

    def second() -> None:
        assert written.wait(30)
        with session(engine) as opened:
            write(opened)

    return at_once(first, second)


def test_two_first_checkups_at_once_leave_one(engine: Engine, make_version: MakeVersion) -> None:
    version = make_version("plates")

    def examine(opened: Session) -> None:
        checkups.put_checkup(opened, version.id, {"findings": []}, now=START)

    assert beside_another(engine, examine) == [None, None]
    with session(engine) as opened:
        assert checkups.get_checkup(opened, version.id) == checkups.Checkup(
            findings={"findings": []}, created_at=START
        )


def test_a_finding_accepted_by_two_at_once_is_accepted(engine: Engine, make_version: MakeVersion) -> None:
    make_version("plates")

    def accept(opened: Session) -> None:
        checkups.accept_finding(opened, "plates", "blur", A, who="ann", now=START)

    assert beside_another(engine, accept) == [None, None]
    with session(engine) as opened:
        assert checkups.accepted_findings(opened, "plates") == {("blur", A)}


@pytest.mark.parametrize("first", ["launch", "deletion"])
def test_no_study_waits_on_a_dataset_deleted_meanwhile(
    engine: Engine, make_version: MakeVersion, first: str
) -> None:
    version = make_version("plates")
    begun, other_waits = threading.Event(), threading.Event()

    def launch() -> str:
        with session(engine) as opened:
            datasets.get_dataset(opened, "plates")
            if first == "deletion":
                other_waits.set()
                assert begun.wait(30)
            create_study(opened, name="s", dataset_version_id=version.id, spec={}, now=START)
            if first == "launch":
                begun.set()
                other_waits.wait(0.5)  # until then the deletion has looked, or waits for this session's end
        return "launched"

    def delete() -> str:
        if first == "launch":
            assert begun.wait(30)
        else:
            assert other_waits.wait(30)
        with session(engine) as opened:
            datasets.delete_dataset(opened, "plates", now=START)
            begun.set()
            threading.Event().wait(0.5 if first == "deletion" else 0)
        other_waits.set()
        return "deleted"

    launched, deleted = at_once(launch, delete)
    if first == "launch":
        assert launched == "launched"
        assert isinstance(deleted, DatasetInUse)
    else:
        assert isinstance(launched, DatasetDeleted)
        assert deleted == "deleted"


def test_study_of_a_deleted_dataset_is_refused(engine: Engine, make_version: MakeVersion) -> None:
    version = make_version("plates")
    with session(engine) as opened:
        datasets.delete_dataset(opened, "plates", now=START)
    with pytest.raises(DatasetDeleted, match="Restore it"), session(engine) as opened:
        create_study(opened, name="s", dataset_version_id=version.id, spec={}, now=START)
