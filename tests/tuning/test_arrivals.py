"""Pictures on their way in, by real uploads and real processes: looked at, taken in, killed, refused."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from storage import datasets, staging
from storage.errors import UploadNotFound
from storage.records import Label, Skipped, now
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tuning import arrivals, corrections, jobs, versions
from tuning.arrivals import Intake, Plan
from tuning.errors import JobCancelled, NotAllowed
from tuning.jobs import Job, JobState
from tuning.sources import open_source
from tuning.sweep import sweep

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120


@pytest.fixture(autouse=True)
def found_by_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def uploaded(workspace: Workspace, file: Path, dataset: str = "") -> str:
    """An upload as the browser makes it."""
    data = file.read_bytes()
    upload = staging.create(
        workspace.settings.staging_folder,
        files=[(file.name, len(data))],
        dataset=dataset,
        limits=staging.Limits(max_bytes=1e9),
        now=now(),
    )
    staging.append(upload, staging.Position(0, 0), 0, data)
    staging.complete(upload, now())
    return upload.id


def zipped(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{folder.name}/{path.relative_to(folder)}")
    return file


def ended(workspace: Workspace, key: str) -> Job:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        job = jobs.status(workspace.settings, key)
        if job is not None and job.state is not JobState.RUNNING:
            return job
        time.sleep(0.1)
    raise AssertionError((workspace.settings.jobs_folder / key / "log").read_text())


def look(workspace: Workspace, arrival_id: str) -> Job:
    arrivals.start_look(workspace, arrival_id)
    return ended(workspace, arrivals.look_key(arrival_id))


def take(workspace: Workspace, arrival_id: str, *intakes: Intake) -> Job:
    arrivals.start_take(workspace, arrival_id, Plan(intakes=intakes, who="ann"))
    return ended(workspace, arrivals.take_key(arrival_id))


def until_gone(workspace: Workspace, arrival_id: str) -> None:
    """Wait for the end of the process that deletes the files of an arrival after it has told its end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (workspace.settings.staging_folder / arrival_id).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_zip_becomes_a_version_and_its_staging_is_gone(workspace, make_folder, tmp_path) -> None:
    folder = make_folder(train=20, test_normal=6, defects={"dent": 4})
    (folder / "train/good/broken.png").write_text("no picture")
    (folder / "test/dent/drawing.svg").write_text("<svg/>")
    arrival_id = uploaded(workspace, zipped(folder, tmp_path / "Parts.zip"))
    assert [one.origin for one in arrivals.list_arrivals(workspace)] == ["Parts.zip"]
    assert look(workspace, arrival_id).state is JobState.DONE
    (layout,) = arrivals.understood(workspace, arrival_id).layouts
    assert layout.kind == "mvtec"
    with workspace.session() as session:
        assert datasets.list_datasets(session) == []  # nothing before a person has decided
    job = take(workspace, arrival_id, Intake(name="parts"))
    assert job.state is JobState.DONE, job.error
    (result,) = job.result
    assert (result["dataset"], result["version"], result["pictures"]) == ("parts", 1, 30)
    assert [one["name"] for one in result["skipped"]] == ["test/dent/drawing.svg", "train/good/broken.png"]
    assert arrivals.list_arrivals(workspace) == []
    until_gone(workspace, arrival_id)
    with workspace.session() as session:
        version = datasets.latest_version(session, "parts")
    assert (version.count(label=Label.ANOMALOUS), version.mask_count, version.who) == (4, 4, "ann")
    ended(workspace, f"doctor-{version.id}")  # the doctor comes by itself


def test_files_that_were_never_sent_are_told_in_the_review_and_in_the_report(workspace, make_folder) -> None:
    files = [(path.name, path.read_bytes()) for path in sorted(make_folder(train=12, flat=True).iterdir())]
    upload = staging.create(
        workspace.settings.staging_folder,
        files=[(f"parts/{name}", len(data)) for name, data in files],
        dataset="",
        limits=staging.Limits(max_bytes=1e9),
        now=now(),
        refused=[Skipped(name="parts/aux.png", reason="Windows keeps that name. Rename it.")],
    )
    for index, (_, data) in enumerate(files):
        staging.append(upload, staging.Position(index, 0), index, data)
    staging.complete(upload, now())
    assert look(workspace, upload.id).state is JobState.DONE
    assert [one.name for one in arrivals.understood(workspace, upload.id).refused] == ["parts/aux.png"]
    (result,) = take(workspace, upload.id, Intake(name="parts")).result
    assert (result["pictures"], result["skipped"]) == (
        12,
        [{"name": "parts/aux.png", "reason": "Windows keeps that name. Rename it."}],
    )


def test_one_small_category_of_a_tree_is_named_and_the_others_go_in(
    workspace, make_folder, tmp_path: Path
) -> None:
    for name, count in (("alpha", 3), ("beta", 16), ("gamma", 14)):
        make_folder(f"tree/{name}", train=count, test_normal=4, defects={"dent": 2})
    arrival_id = uploaded(workspace, zipped(tmp_path / "tree", tmp_path / "tree.zip"))
    look(workspace, arrival_id)
    intakes = [Intake(name=layout.name) for layout in arrivals.understood(workspace, arrival_id).layouts]
    job = take(workspace, arrival_id, *intakes)
    assert job.state is JobState.FAILED
    assert str(job.error).startswith("'alpha': ")
    assert str(job.error).endswith("leave it out. The others are in.")
    done = arrivals.taken(workspace, arrival_id)
    assert [(one["dataset"], one["version"]) for one in done] == [("beta", 1), ("gamma", 1)]
    job = take(workspace, arrival_id, replace(intakes[0], leave_out=True), *intakes[1:])
    assert (job.state, job.result) == (JobState.DONE, done)


def test_archive_that_leads_out_is_refused_by_name(workspace, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil.png", b"x")
    job = look(workspace, uploaded(workspace, tmp_path / "evil.zip"))
    assert job.state is JobState.FAILED
    assert "'../../evil.png' leads out of its folder" in str(job.error)


def test_kill_during_intake_leaves_the_old_state_and_going_on_completes(
    workspace, make_folder, tmp_path
) -> None:
    folder = make_folder(train=220, test_normal=6, defects={"dent": 4}, size=256)
    arrival_id = uploaded(workspace, zipped(folder, tmp_path / "parts.zip"))
    look(workspace, arrival_id)
    arrivals.start_take(workspace, arrival_id, Plan(intakes=(Intake(name="parts"),), who="ann"))
    key = arrivals.take_key(arrival_id)
    _kill_at_work(workspace, key)
    assert ended(workspace, key).state is JobState.INTERRUPTED
    with workspace.session() as session:
        assert datasets.list_datasets(session) == []
    arrivals.start_take(workspace, arrival_id)
    assert ended(workspace, key).state is JobState.DONE
    with workspace.session() as session:
        assert datasets.latest_version(session, "parts").count() == 230


def test_added_pictures_keep_all_roles(workspace, make_folder, tmp_path) -> None:
    first = make_folder(train=20, test_normal=6)
    arrival_id = uploaded(workspace, zipped(first, tmp_path / "one.zip"))
    look(workspace, arrival_id)
    take(workspace, arrival_id, Intake(name="parts"))
    with workspace.session() as session:
        before = datasets.known_roles(session, "parts")
    second = make_folder(train=14, size=48, flat=True, name="second")
    arrival_id = uploaded(workspace, zipped(second, tmp_path / "two.zip"), dataset="parts")
    look(workspace, arrival_id)
    (result,) = take(workspace, arrival_id, Intake(name="parts")).result
    assert (result["version"], result["pictures"]) == (2, 40)
    with workspace.session() as session:
        after = datasets.known_roles(session, "parts")
        assert datasets.latest_version(session, "parts").change == "14 pictures added"
    assert {digest: after[digest] for digest in before} == before


def test_folder_of_the_server_must_be_allowed(tmp_path: Path, make_folder) -> None:
    folder = make_folder(train=12, flat=True)
    closed = open_workspace(Settings(home=tmp_path / "closed"))
    with pytest.raises(NotAllowed, match="no folder is opened for it"):
        arrivals.from_folder(closed, str(folder), "", who="ann")
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    opened = open_workspace(Settings(home=tmp_path / "opened", picture_roots=(allowed,)))
    for outside in (str(folder), str(allowed / ".." / folder.name), "/etc"):
        with pytest.raises(NotAllowed, match="doesn't lie in"):
            arrivals.from_folder(opened, outside, "", who="ann")
    for odd in (str(allowed / ("x" * 300)), "~nobody-of-this-name/x", f"{allowed}/a\0b"):
        with pytest.raises(NotAllowed, match=r"can't be looked for: .+ Give a folder"):
            arrivals.from_folder(opened, odd, "", who="ann")
    folder.rename(allowed / "parts")
    arrival_id = arrivals.from_folder(opened, str(allowed / "parts"), "", who="ann")
    assert look(opened, arrival_id).state is JobState.DONE
    arrivals.discard(opened, arrival_id)
    assert (allowed / "parts" / "000.png").exists()
    closed.close()
    opened.close()


def test_sweep_lets_go_of_what_nobody_touched_and_keeps_what_a_job_is_at(tmp_path: Path, make_folder) -> None:
    workspace = open_workspace(Settings(home=tmp_path / "home", picture_roots=(tmp_path,)))
    settings = workspace.settings
    folder = make_folder(train=12, flat=True)
    old, young, busy = (arrivals.from_folder(workspace, str(folder), "", who="ann") for _ in range(3))
    look(workspace, old)
    blobs = [settings.blobs_folder / "ab" / name for name in (".tmp-1-old", ".tmp-1-young")]
    blobs[0].parent.mkdir()
    status = settings.jobs_folder / arrivals.look_key(old) / ".tmp-1-old"
    for file in (*blobs, status, settings.home / ".tmp-1-old"):
        file.write_bytes(b"half")
    for path in settings.home.rglob("*"):
        if path.name != ".tmp-1-young" and young not in str(path):
            os.utime(path, (0, 0))

    def sweep_meanwhile(progress: jobs.Progress) -> None:
        sweep(workspace)

    jobs.work(settings, arrivals.take_key(busy), sweep_meanwhile)
    assert {path.name for path in settings.staging_folder.iterdir()} == {young, busy}
    assert jobs.keys(settings, "look-") == []
    assert list(settings.home.rglob(".tmp-*")) == [blobs[1]]
    assert (folder / "000.png").exists()
    sweep(workspace)
    assert {path.name for path in settings.staging_folder.iterdir()} == {young}
    workspace.close()


def test_what_a_killed_command_had_unpacked_is_swept_later(workspace, make_folder, tmp_path) -> None:
    archive = zipped(make_folder(train=12, flat=True), tmp_path / "parts.zip")
    script = f"""
import os, signal
from pathlib import Path
from storage.settings import Settings
from storage.workspace import open_workspace
from tuning.sources import open_source
with open_source(open_workspace(Settings(home={str(workspace.settings.home)!r})), Path({str(archive)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    (left,) = workspace.settings.staging_folder.iterdir()
    assert len(list(left.iterdir())) == 12
    sweep(workspace)
    assert left.exists()  # somebody may be at it
    for path in (*left.iterdir(), left):
        os.utime(path, (0, 0))
    sweep(workspace)
    assert list(workspace.settings.staging_folder.iterdir()) == []


def test_what_is_no_arrival_is_not_found(workspace) -> None:
    for wrong in ("0" * 32, "../x", ""):
        with pytest.raises(UploadNotFound):
            arrivals.find(workspace, wrong)


def test_archives_of_the_same_name_stay_apart(workspace, make_folder, tmp_path) -> None:
    """Each keeps its own pictures and masks, whatever loose files lie beside them."""
    folder = make_folder("parts", train=12, test_normal=2, defects={"dent": 2})
    files = [
        (f"{line}/parts.zip", zipped(folder, tmp_path / f"{line}.zip").read_bytes())
        for line in ("line1", "line2")
    ]
    files.append(("line2-parts/note.txt", b"of the second line"))
    upload = staging.create(
        workspace.settings.staging_folder,
        files=[(name, len(data)) for name, data in files],
        dataset="",
        limits=staging.Limits(max_bytes=1e9),
        now=now(),
    )
    for index, (_, data) in enumerate(files):
        staging.append(upload, staging.Position(index, 0), index, data)
    staging.complete(upload, now())
    assert look(workspace, upload.id).state is JobState.DONE
    entries = [entry for one in arrivals.understood(workspace, upload.id).layouts for entry in one.entries]
    assert len(entries) == len({entry.name for entry in entries}) == 2 * 16
    for entry in entries:
        for mask in entry.mask_paths:
            unpacked = workspace.settings.staging_folder / upload.id / "unpacked"
            assert mask.relative_to(unpacked).parts[0] == entry.path.relative_to(unpacked).parts[0]


def test_cancelled_intake_says_what_it_took_in_and_going_on_leaves_that_alone(
    workspace, make_folder, tmp_path
) -> None:
    for product in ("bolts", "nuts"):
        make_folder(f"line/{product}", train=12, test_normal=2, defects={"dent": 3})
    arrival_id = uploaded(workspace, zipped(tmp_path / "line", tmp_path / "line.zip"))
    assert look(workspace, arrival_id).state is JobState.DONE
    assert len(arrivals.understood(workspace, arrival_id).layouts) == 2
    intakes = (Intake(name="bolts", add=False), Intake(name="nuts", add=False))
    _plan(workspace, arrival_id, intakes)

    def cancelled_in_the_second(done: int, total: int, what: str) -> None:
        if "nuts" in what:
            raise JobCancelled("by a person")

    with pytest.raises(JobCancelled):
        arrivals.take(workspace, arrival_id, cancelled_in_the_second)
    assert [(one["dataset"], one["version"]) for one in arrivals.taken(workspace, arrival_id)] == [
        ("bolts", 1)
    ]
    with workspace.session() as session:
        assert [one.name for one in datasets.list_datasets(session)] == ["bolts"]
        dent = next(
            image
            for image in datasets.list_images(session, datasets.latest_version(session, "bolts").id)
            if image.label is Label.ANOMALOUS
        )
    corrections.put(workspace, "bolts", corrections.relabelled([dent], Label.NORMAL), who="bob")
    corrected = versions.save_edits(workspace, "bolts", who="bob")
    results = arrivals.take(workspace, arrival_id, lambda *_: None)
    assert [(one["dataset"], one["version"]) for one in results] == [("bolts", 1), ("nuts", 1)]
    with workspace.session() as session:
        assert datasets.latest_version(session, "bolts").id == corrected.id  # not replaced once more
    assert arrivals.taken(workspace, arrival_id) == results


def test_name_that_can_not_be_kept_leaves_one_picture_of_a_server_folder_out(tmp_path, make_folder) -> None:
    folder = make_folder(train=12, flat=True)
    (folder / os.fsdecode(b"\xff.png")).write_bytes((folder / "000.png").read_bytes())
    workspace = open_workspace(Settings(home=tmp_path / "home", picture_roots=(tmp_path,)))
    arrival_id = arrivals.from_folder(workspace, str(folder), "", who="ann")
    arrivals.look(workspace, arrival_id, lambda *_: None)
    found = arrivals.understood(workspace, arrival_id)
    assert [len(layout.entries) for layout in found.layouts] == [12]
    assert [one.name for one in found.refused] == ["\\udcff.png"]
    with open_source(workspace, folder) as source:
        assert [one.name for one in source.refused] == ["\\udcff.png"]
    workspace.close()


def test_kill_before_the_files_of_a_done_intake_are_deleted_leaves_what_came_of_it(
    workspace, make_folder, tmp_path
) -> None:
    arrival_id = uploaded(workspace, zipped(make_folder(train=12, flat=True), tmp_path / "parts.zip"))
    look(workspace, arrival_id)
    _plan(workspace, arrival_id, (Intake(name="parts"),))
    script = f"""
import os, signal
from tuning import arrivals
arrivals.staging.remove = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
arrivals.main(["take", {arrival_id!r}])
"""
    env = {**os.environ, "SIMPLENET_HOME": str(workspace.settings.home)}
    killed = subprocess.run([sys.executable, "-c", script], env=env, check=False)
    assert killed.returncode == -signal.SIGKILL
    job = jobs.status(workspace.settings, arrivals.take_key(arrival_id))
    assert job is not None
    assert (job.state, [one["pictures"] for one in job.result]) == (JobState.DONE, [12])
    assert arrivals.list_arrivals(workspace) == []  # it waits for nobody
    assert arrival_id in arrivals.sweep(workspace.settings)
    assert not (workspace.settings.staging_folder / arrival_id).exists()


def test_report_has_all_that_was_left_out_and_the_result_the_first_of_it(
    workspace, make_folder, tmp_path
) -> None:
    folder = make_folder(train=12, flat=True)
    for number in range(520):
        (folder / f"broken{number:03d}.png").write_text(f"no picture {number}")
    arrival_id = uploaded(workspace, zipped(folder, tmp_path / "parts.zip"))
    look(workspace, arrival_id)
    (result,) = take(workspace, arrival_id, Intake(name="parts")).result
    assert (result["pictures"], result["left_out"], len(result["skipped"])) == (12, 520, 500)
    report = arrivals.left_out(workspace.settings, arrival_id, result["version_id"])
    assert len({one["name"] for one in report}) == 520


def _plan(workspace: Workspace, arrival_id: str, intakes: tuple[Intake, ...]) -> None:
    """Decide, without a process that begins at once."""
    plan = asdict(Plan(intakes=intakes, who="ann"))
    file = workspace.settings.staging_folder / arrival_id / arrivals.PLAN
    file.write_text(json.dumps(plan))


def _kill_at_work(workspace: Workspace, key: str) -> None:
    """Kill the job's process once it reads pictures."""
    folder = workspace.settings.jobs_folder / key
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        job = jobs.status(workspace.settings, key)
        if job is not None and job.done >= 5:
            break
        time.sleep(0.02)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.resolve() == folder / "lock" for link in (process / "fd").iterdir()):
                os.kill(int(process.name), signal.SIGKILL)
                return
        except OSError:
            continue
    raise AssertionError("the job was too quick to be killed")
