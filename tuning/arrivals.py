"""Pictures on their way in: an upload or a folder of this machine, first looked at, then taken in as a person decided.

An arrival lies in the staging folder until it is taken in or discarded; nothing of it is in the database. Both steps
run as jobs of their own process and can be repeated: looking unpacks anew, and taking in what is in a version already
changes nothing.

`python -m tuning.arrivals look|take ID` is that process.
"""

import json
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Any

from engine.errors import EngineError
from engine.masks import read_mask
from storage import staging
from storage.archives import is_archive, unpack
from storage.atomic_files import temporary_beside, write_file
from storage.errors import StorageError, UploadNotFound
from storage.layouts import Choice, Entry, Layout, choose, understand
from storage.listing import SourceFile, survey
from storage.names import shown
from storage.records import Label, Skipped, now
from storage.room import told_when_full
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tuning import jobs
from tuning.doctor import job_key as examination_key
from tuning.doctor import start_examination
from tuning.errors import BadDataset, BadPicture, NotAllowed, TuningError
from tuning.ingest import IngestReport, ingest_layout
from tuning.jobs import Job, JobState, Progress
from tuning.reading import file_bytes

logger = logging.getLogger(__name__)

FOLDER_FILE, UNPACKED, UNDERSTOOD, PLAN = "folder.json", "unpacked", "understood.json", "plan.json"
TAKEN = "taken.json"  # what of the plan is done
MODULE = "tuning.arrivals"
LEFT_OUT_TOLD = 500  # of what was left out, in the job's result; the report has all
MASKS_LOOKED_AT = 200  # at most, evenly over all
KEPT_DAYS = 7  # an arrival that nobody touches


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What has arrived and is not taken in yet."""

    id: str
    origin: str  # for people: 'parts.zip', '240 files', '/data/parts'
    dataset: str  # what it was meant for; may be empty
    created: datetime
    who: str


@dataclass(frozen=True, kw_only=True)
class Understood:
    """What was recognised in an arrival."""

    layouts: tuple[Layout, ...]
    refused: tuple[Skipped, ...]  # files that could not even be sent or unpacked
    mask_values: tuple[int, ...]  # of the masks looked at, if they are neither 0 and 1 nor 0 and 255


@dataclass(frozen=True, kw_only=True)
class Intake:
    """What a person decided for one recognised layout."""

    name: str  # of the dataset
    add: bool = True  # to the pictures it has; else they are replaced
    choices: Mapping[str, Choice] = field(default_factory=dict)  # by key of the group
    leave_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a person decided for a whole arrival, one intake per layout."""

    intakes: tuple[Intake, ...]
    who: str
    mask_threshold: int = 0


def from_folder(workspace: Workspace, folder: str, dataset: str, *, who: str) -> str:
    """Let a folder of this machine arrive, without copying it; answers the arrival's id.

    Raises:
        NotAllowed: it doesn't lie in a folder that the setting `picture_roots` names.
    """
    roots = workspace.settings.picture_roots
    if not roots:
        raise NotAllowed(
            f"Folder '{folder}' can't be read from this page: no folder is opened for it. "
            "Set SIMPLENET_PICTURE_ROOTS='[\"/data/pictures\"]' where the dashboard is started, "
            "or use `simplenet ingest FOLDER --name NAME` on the server."
        )
    try:
        path = Path(folder).expanduser().resolve()
        inside = any(path.is_relative_to(root.resolve()) for root in roots)
        there = inside and path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown user, with a zero byte
        raise NotAllowed(
            f"Folder {shown(folder)} can't be looked for: {getattr(error, 'strerror', None) or error}. "
            "Give a folder of pictures."
        ) from error
    if not inside:
        allowed = ", ".join(f"'{root}'" for root in roots)
        raise NotAllowed(
            f"Folder '{folder}' doesn't lie in {allowed}. Give a folder there, or set SIMPLENET_PICTURE_ROOTS."
        )
    if not there:
        raise NotAllowed(f"Folder '{folder}' doesn't exist, or is a file. Give a folder of pictures.")
    arrival_id = token_hex(16)
    values = {"folder": str(path), "dataset": dataset, "created": now().isoformat(), "who": who}
    final = workspace.settings.staging_folder / arrival_id
    begun = temporary_beside(final)
    with told_when_full(workspace.settings.home):
        begun.mkdir(parents=True)
        write_file(begun / FOLDER_FILE, json.dumps(values).encode())
        begun.rename(final)
    return arrival_id


def find(workspace: Workspace, arrival_id: str) -> Arrival:
    """The arrival of this id.

    Raises:
        UploadNotFound: there is none, or it has not arrived whole.
    """
    return _find(workspace.settings.staging_folder, arrival_id)


def _find(staging_folder: Path, arrival_id: str) -> Arrival:
    file = staging_folder / _checked(arrival_id) / FOLDER_FILE
    if file.exists():
        values = json.loads(file.read_text(encoding="utf-8"))
        return Arrival(
            id=arrival_id,
            origin=values["folder"],
            dataset=values["dataset"],
            created=datetime.fromisoformat(values["created"]),
            who=values["who"],
        )
    upload = staging.find(staging_folder, arrival_id)
    if upload.completed is None:
        raise UploadNotFound(
            f"Upload {arrival_id} has not arrived whole. Choose the same files again: it goes on where it stopped."
        )
    names = [file.name for file in upload.files]
    tops = {name.split("/")[0] for name in names}
    origin = tops.pop() if len(tops) == 1 else f"{len(names):,} files"
    return Arrival(id=arrival_id, origin=origin, dataset=upload.dataset, created=upload.created, who="")


def list_arrivals(workspace: Workspace) -> list[Arrival]:
    """All that has arrived whole and waits for a person or a job, the youngest first."""
    found = []
    for folder in workspace.settings.staging_folder.iterdir():
        try:
            arrival = find(workspace, folder.name)
        except UploadNotFound:
            continue
        if arrival.dataset.startswith(staging.TO_SCORE):  # what is only to be scored becomes no dataset
            continue
        if not _is_taken_in(workspace.settings, arrival.id):
            found.append(arrival)
    return sorted(found, key=lambda arrival: arrival.created, reverse=True)


def start_look(workspace: Workspace, arrival_id: str) -> Job:
    """Unpack and recognise an arrival in the background."""
    find(workspace, arrival_id)
    return jobs.start(workspace.settings, look_key(arrival_id), MODULE, ["look", arrival_id])


def start_take(workspace: Workspace, arrival_id: str, plan: Plan | None = None) -> Job:
    """Take an arrival in, in the background; without a plan, as was decided before.

    Raises:
        UploadNotFound: there is no such arrival, or nothing was decided.
    """
    find(workspace, arrival_id)
    if plan is not None:
        with told_when_full(workspace.settings.home):
            _write(workspace, arrival_id, PLAN, asdict(plan))
    _plan(workspace, arrival_id)
    return jobs.start(workspace.settings, take_key(arrival_id), MODULE, ["take", arrival_id])


def look_key(arrival_id: str) -> str:
    """Key of the job that looks at an arrival."""
    return f"look-{arrival_id}"


def take_key(arrival_id: str) -> str:
    """Key of the job that takes an arrival in."""
    return f"take-{arrival_id}"


def understood(workspace: Workspace, arrival_id: str) -> Understood:
    """What `look` recognised.

    Raises:
        UploadNotFound: nobody has looked yet.
    """
    values = _read(workspace, arrival_id, UNDERSTOOD)
    return Understood(
        layouts=tuple(_layout(one) for one in values["layouts"]),
        refused=tuple(Skipped(**one) for one in values["refused"]),
        mask_values=tuple(values["mask_values"]),
    )


def look(workspace: Workspace, arrival_id: str, progress: Progress) -> Any:
    """Unpack an arrival and recognise its layout; the answer waits in the staging folder.

    Raises:
        StorageError: an archive is refused, or the layout is not understood.
    """
    arrival = find(workspace, arrival_id)
    folder = workspace.settings.staging_folder / arrival_id
    if (folder / FOLDER_FILE).exists():
        files, refused = survey(Path(arrival.origin))
    else:
        upload = staging.find(workspace.settings.staging_folder, arrival_id)
        files, unpackable = _unpacked(upload.source_files(), folder / UNPACKED, progress)
        refused = [*upload.refused, *unpackable]
    progress(0, 0, "recognising the layout")
    layouts = understand(files, arrival.origin)
    values = {
        "layouts": [_plain(layout) for layout in layouts],
        "refused": [asdict(one) for one in refused],
        "mask_values": _mask_values(layouts, progress),
    }
    _write(workspace, arrival_id, UNDERSTOOD, values)
    return {"layouts": len(layouts)}


def taken(workspace: Workspace, arrival_id: str) -> list[dict[str, Any]]:
    """What an intake that did not come to its end has taken in all the same, as `take` answers it."""
    return [done["result"] for done in _taken(workspace, arrival_id)]


def left_out(settings: Settings, arrival_id: str, version_id: int) -> list[dict[str, str]]:
    """Name and reason of every file that an intake left out of a version; none where that is no longer known."""
    file = _report_file(settings, arrival_id, version_id)
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def take(workspace: Workspace, arrival_id: str, progress: Progress) -> Any:
    """Make dataset versions of an arrival as its plan says.

    What an attempt before this has taken in, decided in the same way, is not taken in again: somebody may have
    corrected it since.

    Returns:
        per dataset its name, version and what was left out, as JSON; see `left_out` for all of that.
    Raises:
        StorageError, TuningError: see `tuning.ingest.ingest_layout`; what was taken in before stays.
        BadDataset: see there; of several datasets all others are taken in first.
    """
    arrival, plan, seen = (
        find(workspace, arrival_id),
        _plan(workspace, arrival_id),
        understood(workspace, arrival_id),
    )
    all_done = _taken(workspace, arrival_id)
    results = []
    failed: dict[str, str] = {}  # name of the dataset → why
    refused = seen.refused
    several = len(plan.intakes) > 1
    for number, (layout, intake) in enumerate(zip(seen.layouts, plan.intakes, strict=True)):
        if intake.leave_out:
            continue
        decided = json.loads(json.dumps([number, asdict(intake), plan.mask_threshold]))
        done = next((one for one in all_done if one["decided"] == decided), None)
        if done is not None:
            results.append(done["result"])
            refused = ()
            _examine(workspace, done["result"]["version_id"])
            continue
        try:
            report = ingest_layout(
                workspace,
                choose(layout, intake.choices),
                intake.name,
                source=arrival.origin,
                add=intake.add,
                mask_threshold=plan.mask_threshold,
                refused=refused,
                who=plan.who,
                progress=_naming(intake.name, progress) if several else progress,
            )
        except BadDataset as error:
            if not several:
                raise
            failed[intake.name] = str(error)
            continue
        refused = ()  # told once
        result = _result(intake.name, report)
        results.append(result)
        all_done.append({"decided": decided, "result": result})
        _after_intake(workspace, arrival_id, report, all_done)
    if failed:
        told = " ".join(f"'{name}': {error}" for name, error in failed.items())
        raise BadDataset(f"{told} Or change what was decided: leave it out. The others are in.")
    return results


def _naming(name: str, progress: Progress) -> Progress:
    """Say which dataset of several the progress is about."""
    return lambda done, total, text: progress(done, total, f"{text} for {name}")


def _result(name: str, report: IngestReport) -> dict[str, Any]:
    return {
        "dataset": name,
        "version": report.version.number,
        "version_id": report.version.id,
        "made": report.made,
        "pictures": report.version.count(),
        "left_out": len(report.skipped),
        "skipped": [asdict(one) for one in report.skipped[:LEFT_OUT_TOLD]],
        "notes": list(report.notes),
    }


def _after_intake(
    workspace: Workspace, arrival_id: str, report: IngestReport, all_done: Sequence[Mapping[str, Any]]
) -> None:
    """What goes with a version that is made; should it fail, the version is there all the same."""
    skipped = json.dumps([asdict(one) for one in report.skipped]).encode()
    try:
        with told_when_full(workspace.settings.home):
            file = _report_file(workspace.settings, arrival_id, report.version.id)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(file, skipped)
            _write(workspace, arrival_id, TAKEN, all_done)
    except (OSError, StorageError, TuningError):
        logger.warning("intake of version %d told by half", report.version.id, exc_info=True)
    _examine(workspace, report.version.id)


def _examine(workspace: Workspace, version_id: int) -> None:
    """Have a version checked, unless it was or is: an intake may have been killed before it came to that.

    Should that fail, the version is there all the same, and its page offers the checkup.
    """
    try:
        job = jobs.status(workspace.settings, examination_key(version_id))
        if job is None or job.state not in (JobState.RUNNING, JobState.DONE):
            start_examination(workspace, version_id)
    except (OSError, StorageError, TuningError):
        logger.warning("version %d is not checked yet", version_id, exc_info=True)


def _taken(workspace: Workspace, arrival_id: str) -> list[dict[str, Any]]:
    try:
        done: list[dict[str, Any]] = _read(workspace, arrival_id, TAKEN)
    except UploadNotFound:
        return []
    return done


def _is_taken_in(settings: Settings, arrival_id: str) -> bool:
    """Whether all of an arrival is taken in; its files are deleted then, unless the process died before."""
    job = jobs.status(settings, take_key(arrival_id))
    return job is not None and job.state is JobState.DONE


def _report_file(settings: Settings, arrival_id: str, version_id: int) -> Path:
    return settings.jobs_folder / take_key(arrival_id) / f"left-out-{version_id}.json"


def discard(workspace: Workspace, arrival_id: str) -> None:
    """Let go of an arrival; a folder of this machine itself is never touched."""
    for key in (look_key(arrival_id), take_key(arrival_id)):
        jobs.cancel(workspace.settings, key)
    staging.remove(workspace.settings.staging_folder / _checked(arrival_id))


def sweep(settings: Settings) -> list[str]:
    """Let go of uploads and arrivals that are taken in, or that nobody has touched for a week.

    What a job is at is left alone. What was told of the jobs of others is forgotten after a week, too.

    Returns:
        ids of what was let go of.
    """
    kept = timedelta(days=KEPT_DAYS)
    told = {
        key: key.partition("-")[2] for step in ("look", "take") for key in jobs.keys(settings, f"{step}-")
    }
    busy = {arrival_id for key, arrival_id in told.items() if jobs.is_running(settings, key)}
    swept = staging.sweep(settings.staging_folder, now(), kept, keep=busy)
    for key, arrival_id in told.items():
        if arrival_id in busy:
            continue
        folder = settings.staging_folder / arrival_id
        if folder.exists() and _is_taken_in(settings, arrival_id) and staging.remove(folder):
            swept.append(arrival_id)
        if not folder.exists():
            jobs.forget(settings, key, older_than=kept)
    return swept


def _unpacked(
    given: Sequence[SourceFile], into: Path, progress: Progress
) -> tuple[list[SourceFile], list[Skipped]]:
    """The given files, with what is in the archives among them in place of the archives."""
    shutil.rmtree(into, ignore_errors=True)  # what an attempt before this left half done
    files = [file for file in given if not is_archive(file.name)]
    refused: list[Skipped] = []
    archives = [file for file in given if is_archive(file.name)]
    # Of several archives each is a folder, so that equal names in two of them don't meet.
    folders = [""] if len(given) == 1 else _folders([file.name for file in archives], files)
    for number, (file, prefix) in enumerate(zip(archives, folders, strict=True)):
        folder = into / f"{number:06d}"
        folder.mkdir(parents=True)
        found = unpack(file.path, folder, name=file.name, progress=progress)
        files += [replace(one, name=prefix + one.name) for one in found.files]
        refused += [Skipped(name=prefix + one.name, reason=one.reason) for one in found.refused]
    return files, refused


def _folders(archives: Sequence[str], loose: Iterable[SourceFile]) -> list[str]:
    """A folder for each archive, 'parts/': named after it, with the folders it lies in where that is not enough.

    Whatever the names, no two are the same, and no loose file lies in one.
    """
    paths = [PurePosixPath(name.replace("\\", "/")).with_suffix("") for name in archives]
    short = [path.name.removesuffix(".tar") for path in paths]
    times = Counter(name.casefold() for name in short)
    taken = {file.name.replace("\\", "/").split("/")[0].casefold() for file in loose}
    found = []
    for path, name in zip(paths, short, strict=True):
        wanted = name if times[name.casefold()] == 1 else "-".join([*path.parts[:-1], name])
        chosen, count = wanted, 1
        while chosen.casefold() in taken:
            count += 1
            chosen = f"{wanted}-{count}"
        taken.add(chosen.casefold())
        found.append(f"{chosen}/")
    return found


def _mask_values(layouts: Sequence[Layout], progress: Progress) -> list[int]:
    """Some values of masks that are neither 0 and 1 nor 0 and 255; none if all looked at are as usual."""
    masks = [
        path
        for layout in layouts
        for entry in layout.entries
        for path in entry.mask_paths
        if not entry.white_is_background
    ]
    values: set[int] = set()
    chosen = masks[:: max(1, -(-len(masks) // MASKS_LOOKED_AT))]
    for done, path in enumerate(chosen):
        progress(done, len(chosen), "looking at masks")
        try:
            read = read_mask(file_bytes(path), path.name)
        except (EngineError, BadPicture):  # told when the pictures are read
            continue
        if not read.binary:
            values.update(read.values)
    return sorted(values)[:8]


def _checked(arrival_id: str) -> str:
    if not (len(arrival_id) == 32 and set(arrival_id) <= set("0123456789abcdef")):
        raise UploadNotFound(
            f"{arrival_id!r} is no upload; an upload's id is 32 lowercase hexadecimal digits."
        )
    return arrival_id


def _plan(workspace: Workspace, arrival_id: str) -> Plan:
    values = _read(workspace, arrival_id, PLAN)
    intakes = [
        Intake(
            **{
                **one,
                "choices": {
                    key: Choice(**{**choice, "label": Label(choice["label"])})
                    for key, choice in one["choices"].items()
                },
            }
        )
        for one in values["intakes"]
    ]
    return Plan(intakes=tuple(intakes), who=values["who"], mask_threshold=values["mask_threshold"])


def _plain(layout: Layout) -> dict[str, Any]:
    entries = [
        {
            **vars(entry),
            "path": str(entry.path),
            "masks": [{"name": mask.name, "path": str(mask.path)} for mask in entry.masks],
        }
        for entry in layout.entries
    ]
    return {**vars(layout), "entries": entries, "skipped": [asdict(one) for one in layout.skipped]}


def _layout(values: Mapping[str, Any]) -> Layout:
    entries = tuple(
        Entry(
            **{
                **one,
                "path": Path(one["path"]),
                "label": Label(one["label"]),
                "masks": tuple(
                    SourceFile(name=mask["name"], path=Path(mask["path"])) for mask in one["masks"]
                ),
            }
        )
        for one in map(_with_mask_names, values["entries"])
    )
    tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    skipped = tuple(Skipped(**one) for one in values.get("skipped", ()))  # older programs wrote none
    return Layout(**{**values, **tuples, "entries": entries, "skipped": skipped})


def _with_mask_names(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as it is written now; older programs wrote where its masks lie, and no names."""
    one = dict(entry)
    paths = one.pop("mask_paths", ())
    return {"masks": [{"name": PurePosixPath(path).name, "path": path} for path in paths], **one}


def _write(
    workspace: Workspace, arrival_id: str, name: str, values: Mapping[str, Any] | Sequence[Any]
) -> None:
    write_file(workspace.settings.staging_folder / arrival_id / name, json.dumps(values).encode())


def _read(workspace: Workspace, arrival_id: str, name: str) -> Any:
    try:
        return json.loads(
            (workspace.settings.staging_folder / _checked(arrival_id) / name).read_text(encoding="utf-8")
        )
    except FileNotFoundError:
        raise UploadNotFound(
            f"Upload {arrival_id} is no longer there, or nothing was decided of it. Upload the pictures again."
        ) from None


def main(arguments: Sequence[str]) -> None:
    """Do one step of an arrival in this process."""
    step, arrival_id = arguments
    logging.basicConfig(level=logging.INFO)
    settings = Settings()
    key, do = {"look": (look_key, look), "take": (take_key, take)}[step]

    def let_go() -> None:
        if step == "take":
            staging.remove(settings.staging_folder / arrival_id)

    jobs.work(
        settings,
        key(arrival_id),
        lambda progress: do(open_workspace(settings), arrival_id, progress),
        afterwards=let_go,  # not before: a death in between would leave neither the files nor what came of them
    )


if __name__ == "__main__":
    main(sys.argv[1:])
