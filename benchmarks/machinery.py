"""What the machinery around trials costs: claims, Optuna, MLflow, heartbeats, the process that computes; and sharing.

    python -m benchmarks.machinery
    python -m benchmarks.machinery --trials 8 --seconds 10 --workers 4

*Overhead*: a study whose trials train for about so many seconds each runs under a worker on SQLite. Of the time from
its first trial's begin to its last one's end, all that was not spent inside `run_trial` is the machinery's. Then the
same configurations are trained in this process by `run_trial` alone: whether trials are slower under a worker than
alone. Both are done in turn, twice, since a machine's speed drifts: what two equal rounds differ by is its noise.

*Sharing*: a study whose trials do almost nothing but sleep runs under one worker, then one of the same kind under
several, on a PostgreSQL of its own. Sleeping needs no processor, so what is missing to a gain of as many times as there
are workers is the machinery's. Time runs from the first trial's begin to the last one's end.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, machine, write_json
from engine.backbones.resolve import resolve_backbone
from engine.config import SimpleNetConfig
from engine.demo import draw_demo
from engine.devices import resolve_device
from engine.features import FeatureExtractor
from storage import datasets, studies
from storage.records import Study
from storage.settings import PREFIX, Settings
from storage.tracking import Tracking
from storage.workspace import Workspace, open_workspace
from tuning.commands import ingest_folder, launch_study
from tuning.features import cached_features
from tuning.pictures import study_pictures
from tuning.queries import TrialRecord, live_workers, study_trials
from tuning.spec import StudySpec
from tuning.trial import TrialData, TrialResult, run_trial
from tuning.worker import run_worker, worker_name

DATASET = "pictures"
SIZE = 64  # pixels of the pictures' sides: features are quick, trials take as many epochs as are asked for
NAP_SECONDS = 2.0  # per epoch of a trial that sleeps
PROBE_EPOCHS = 8
ROUNDS = 2  # of the study and of its trainings alone
SPACE: dict[str, Any] = {
    "height": SIZE,
    "width": SIZE,
    "layers": ((1, 2), (2,)),
    "adaptor_depths": (1,),
    "pruner": "none",
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", nargs="+", choices=("overhead", "sharing"), default=("overhead", "sharing")
    )
    parser.add_argument("--trials", type=int, default=6, help="of the study whose overhead is measured")
    parser.add_argument("--seconds", type=float, default=10.0, help="that each of them trains, about")
    parser.add_argument("--workers", type=int, default=4, help="that share a study")
    parser.add_argument("--naps", type=int, default=16, help="trials that sleep, of each shared study")
    parser.add_argument(
        "--epochs", type=int, default=10, help=f"of {NAP_SECONDS} s that each of those sleeps"
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "machinery.json", metavar="FILE")
    parser.add_argument(
        "--work", action="store_true", help=argparse.SUPPRESS
    )  # be a worker of the second part
    options = parser.parse_args(arguments)
    if options.work:
        run_worker(open_workspace(), worker_id=worker_name(), stop=threading.Event(), run=nap)
        return
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]  # this measurement's databases must not be those of a real installation
    with tempfile.TemporaryDirectory() as folder:
        draw_demo(Path(folder) / DATASET, size=SIZE)
        parts = {"overhead": overhead, "sharing": sharing}
        result = {name: parts[name](Path(folder), options) for name in options.parts}
    write_json(options.json, {"machine": machine(), **result})
    print(as_table(result))


def overhead(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run a study of trials that really train, then train the same configurations alone."""
    workspace = open_workspace(Settings(home=folder / "one", device="cpu"))
    ingest_folder(workspace, folder / DATASET, DATASET)
    (probe,) = run(workspace, StudySpec(trials=1, epochs=PROBE_EPOCHS, **SPACE))
    epochs = max(1, round(options.seconds / inside(workspace, probe) * PROBE_EPOCHS))
    spec = StudySpec(trials=options.trials, epochs=epochs, **SPACE)
    data = loaded(workspace, spec)
    took, computing, alone = [], [], []
    for _ in range(ROUNDS):
        trials = run(workspace, spec)
        took.append(span(trials))
        computing.append(sum(inside(workspace, trial) for trial in trials))
        alone.append(bare(data, trials))
    workspace.close()
    return {
        "trials": options.trials,
        "epochs": epochs,
        "seconds_per_trial": sum(computing) / options.trials / ROUNDS,
        "seconds": took,
        "seconds_inside_trials": computing,
        "overhead": sum(took) / sum(computing) - 1,
        "seconds_bare": alone,
        "over_bare": sum(took) / sum(alone) - 1,
    }


def bare(data: TrialData, trials: Sequence[TrialRecord]) -> float:
    """Seconds of the same trainings in this process, with nothing around them."""
    began = time.monotonic()
    for trial in trials:
        run_trial(data, SimpleNetConfig.from_json(dict(trial.config)), on_epoch=lambda *_: None)
    return time.monotonic() - began


def sharing(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run a study of sleeping trials with one worker, and another with several."""
    from tests.postgres import running_postgres  # of the checkout that this is run in

    seconds: dict[int, float] = {}
    with running_postgres() as server:
        for count in (1, options.workers):
            workspace = open_workspace(
                Settings(
                    home=folder / f"shared{count}",
                    device="cpu",
                    database_url=server.new_database(),
                    optuna_url=server.new_database(),
                )
            )
            ingest_folder(workspace, folder / DATASET, DATASET)
            workers = [start_worker(workspace.settings) for _ in range(count)]
            try:
                while len(live_workers(workspace)) < count:
                    time.sleep(0.2)
                spec = StudySpec(
                    trials=options.naps,
                    epochs=options.epochs,
                    sampler="random",
                    knobs={"members": (1,)},
                    **SPACE,
                )
                seconds[count] = span(finished(workspace, launch_study(workspace, DATASET, spec)))
            finally:
                for worker in workers:
                    worker.terminate()
                for worker in workers:
                    worker.wait()
            workspace.close()
    gain = seconds[1] / seconds[options.workers]
    return {
        "trials": options.naps,
        "seconds_asleep": options.naps * options.epochs * NAP_SECONDS,
        "seconds": {str(count): value for count, value in seconds.items()},
        "workers": options.workers,
        "gain": gain,
        "efficiency": gain / options.workers,
    }


def nap(data: TrialData, config: SimpleNetConfig, *, on_epoch: Any, **keywords: Any) -> TrialResult:
    """A trial that sleeps: one small step per epoch, and a nap after each."""

    def after(*about: Any) -> None:
        time.sleep(NAP_SECONDS)
        on_epoch(*about)

    return run_trial(data, replace(config, steps_per_epoch=1), on_epoch=after, **keywords)


def start_worker(settings: Settings) -> "subprocess.Popen[bytes]":
    """A worker process whose trials sleep."""
    names = ("home", "device", "database_url", "optuna_url")
    own = {f"{PREFIX}{name.upper()}": str(getattr(settings, name)) for name in names}
    command = (sys.executable, "-m", "benchmarks.machinery", "--work")
    return subprocess.Popen(command, env={**os.environ, **own}, stderr=subprocess.DEVNULL)


def run(workspace: Workspace, spec: StudySpec) -> list[TrialRecord]:
    """A study under a worker of this process; its trials."""
    study = launch_study(workspace, DATASET, spec)
    run_worker(workspace, worker_id="measured", stop=threading.Event(), study_id=study.id)
    return finished(workspace, study)


def finished(workspace: Workspace, study: Study) -> list[TrialRecord]:
    """Wait for a study's end; its trials."""
    while not study.state.finished:
        time.sleep(0.2)
        with workspace.session() as session:
            study = studies.get_study(session, study.id)
    if study.error:
        raise SystemExit(f"The study is {study.state}: {study.error}")
    return study_trials(workspace, study)


def span(trials: Sequence[TrialRecord]) -> float:
    """Seconds from the first trial's begin to the last one's end."""
    begins = [trial.started_at.timestamp() for trial in trials if trial.started_at]
    ends = [
        trial.started_at.timestamp() + trial.duration_seconds
        for trial in trials
        if trial.started_at and trial.duration_seconds
    ]
    return max(ends) - min(begins)


def inside(workspace: Workspace, trial: TrialRecord) -> float:
    """Seconds that a trial spent inside `run_trial`, as its run says."""
    return float(Tracking(workspace.settings).run(str(trial.run_id)).metrics["seconds"])


def loaded(workspace: Workspace, spec: StudySpec) -> TrialData:
    """What the worker had of the study, in this process."""
    with workspace.session() as session:
        version = datasets.latest_version(session, DATASET)
        pictures = study_pictures(datasets.list_images(session, version.id))
    device = resolve_device("cpu")
    extractor = FeatureExtractor(resolve_backbone("auto", None, device), (1, 2), device)
    cached = cached_features(
        workspace, version, pictures.unsealed, extractor, height=SIZE, width=SIZE, on_batch=lambda *_: None
    )
    return TrialData(
        workspace=workspace,
        pictures=pictures,
        cached=cached,
        objective=spec.objective,
        false_reject_rate=spec.false_reject_rate,
        backbone=extractor.backbone,
        device=device,
    )


def as_table(result: dict[str, Any]) -> str:
    """Write the figures as markdown."""
    lines = []
    if one := result.get("overhead"):
        lines += [
            f"| {one['trials']} trials of {one['seconds_per_trial']:.1f} s on SQLite, each round | seconds |",
            "|---|---|",
            f"| from the first begin to the last end | {_listed(one['seconds'])} |",
            f"| of it inside the trials | {_listed(one['seconds_inside_trials'])} |",
            f"| the same trainings alone | {_listed(one['seconds_bare'])} |",
            f"| **overhead** over the time inside | {one['overhead']:.1%} |",
            f"| over the trainings alone | {one['over_bare']:.1%} |",
            "",
        ]
    if many := result.get("sharing"):
        lines += [
            f"| {many['trials']} trials that sleep {many['seconds_asleep']:.0f} s together, on PostgreSQL | seconds |",
            "|---|---|",
            *(
                f"| {count} worker{'s' * (count != '1')} | {value:.1f} |"
                for count, value in many["seconds"].items()
            ),
            f"| **gain**, share of the possible | {many['gain']:.2f}, {many['efficiency']:.0%} |",
        ]
    return "\n".join(lines)


def _listed(seconds: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in seconds)


if __name__ == "__main__":
    main()
