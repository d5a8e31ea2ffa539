"""What share of a study its backbone takes: the seconds of its phases, with and without cached features.

    python -m benchmarks.study
    python -m benchmarks.study --data ../shared/data/magnetic_tile --weights resnet18.tv_in1k.safetensors

A worker in this process runs the same study twice in a temporary installation: first with an empty cache of
features, then with a full one. Seconds come from what a study records of itself, and their phases are

- preparing: from the worker's claim to the study's run in MLflow: pictures listed, the backbone's weights read, the
  network built, MLflow opened (the first time, its library loaded and its database made);
- features: from there to the first trial: the pictures decoded, the backbone run over all of them but the sealed
  test, features written to the cache; Optuna's database opened (the first time, made);
- trials: trainings, their validation and calibration on cached features; no backbone;
- between trials: what is recorded of each after it has ended;
- champion: from the last trial to the study's end: the backbone again, picture by picture, for calibration, validation
  and the sealed test; the model registered in MLflow.

So the backbone's own share is most of features, and a part of champion that is not recorded apart. Ingest comes
before all of it and is not counted.
"""

import argparse
import os
import statistics
import tempfile
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, add_backbone_options, chosen_backbone, machine, write_json
from engine.backbones.resolve import Backbone
from engine.demo import draw_demo
from engine.devices import resolve_device, resolve_precision
from storage import studies
from storage.records import Role, StudyState
from storage.settings import PREFIX, Settings
from storage.tracking import Tracking
from storage.workspace import Workspace, open_workspace
from tuning.backbones import offered_layers
from tuning.commands import ingest_folder, launch_study
from tuning.queries import study_trials
from tuning.spec import StudySpec
from tuning.worker import run_worker

DATASET = "pictures"
RUNS = ("features computed", "features from the cache")
PHASES = ("preparing", "features", "trials", "between trials", "champion")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder in the MVTec layout; default: the drawn demo")
    add_backbone_options(parser)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=StudySpec.epochs, help="of every trial")
    parser.add_argument(
        "--size", type=int, default=StudySpec.height, help="side of the network's input and of drawn pictures"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, default=RESULTS / "study.json", metavar="FILE")
    options = parser.parse_args(arguments)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]  # this measurement's databases must not be those of a real installation
    with tempfile.TemporaryDirectory() as folder, chosen_backbone(options) as backbone:
        result = measure(Path(folder), backbone, options)
    write_json(options.json, {"machine": machine(), **result})
    print(as_table(result))


def measure(folder: Path, backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """Ingest the pictures into an installation below `folder` and run the study on them twice."""
    device = resolve_device(options.device)
    workspace = open_workspace(Settings(home=folder / "home", device=options.device))
    if options.data is None:
        draw_demo(folder / DATASET, size=options.size)
    version = ingest_folder(workspace, options.data or folder / DATASET, DATASET).version
    spec = StudySpec(
        trials=options.trials,
        epochs=options.epochs,
        height=options.size,
        width=options.size,
        backbones=(backbone.name,),
        weights=str(backbone.weights),
        layers=offered_layers(workspace.settings, backbone.name, backbone.weights),
    )
    runs = {name: run(workspace, spec) for name in RUNS}
    workspace.close()
    return {
        "data": options.data.name if options.data else "the drawn demo",
        "pictures": {role.value: version.count(role=role) for role in Role},
        "backbone": backbone.text,
        "device": str(device),
        "precision": str(resolve_precision("auto", device)).removeprefix("torch."),
        "spec": spec.to_json() | {"weights": backbone.weights.name},
        "studies": runs,
    }


def run(workspace: Workspace, spec: StudySpec) -> dict[str, Any]:
    """Run a study and read what it recorded: seconds by phase, of each trial, and the share before the first trial."""
    queued = launch_study(workspace, DATASET, spec)
    run_worker(workspace, worker_id="measured", stop=threading.Event(), study_id=queued.id)
    with workspace.session() as session:
        study = studies.get_study(session, queued.id)
    if study.state is not StudyState.COMPLETED:
        raise SystemExit(f"The study is {study.state}: {study.error}")
    opened = Tracking(workspace.settings).client.get_run(study.parent_run_id).info.start_time
    trials = study_trials(workspace, study)
    began = [trial.started_at.timestamp() for trial in trials]
    seconds = [trial.duration_seconds for trial in trials]
    ended = [start + lasted for start, lasted in zip(began, seconds, strict=True)]
    points = [
        study.started_at.timestamp(),
        opened / 1000,
        min(began),
        max(ended),
        study.finished_at.timestamp(),
    ]
    preparing, features, trying, champion = (end - start for start, end in pairwise(points))
    whole = points[-1] - points[0]
    phases = (preparing, features, sum(seconds), trying - sum(seconds), champion)
    return {
        "seconds": whole,
        "phases": dict(zip(PHASES, phases, strict=True)),
        "before_first_trial": preparing + features,
        "share_before_first_trial": (preparing + features) / whole,
        "share_of_features": features / whole,
        "trial_states": [trial.state for trial in trials],
        "trial_seconds": seconds,
    }


def as_table(result: dict[str, Any]) -> str:
    """Write the figures as markdown, one column per study."""
    runs, spec = result["studies"], result["spec"]
    pictures = ", ".join(f"{count} {role}" for role, count in result["pictures"].items())
    rows = {
        "before the first trial": [f"{one['before_first_trial']:.1f} s" for one in runs.values()],
        **{f"– {name}": [f"{one['phases'][name]:.1f} s" for one in runs.values()] for name in PHASES[:2]},
        **{name: [f"{one['phases'][name]:.1f} s" for one in runs.values()] for name in PHASES[2:]},
        "a trial, median": [f"{statistics.median(one['trial_seconds']):.2f} s" for one in runs.values()],
        "the whole study": [f"{one['seconds']:.1f} s" for one in runs.values()],
        "share before the first trial": [f"{one['share_before_first_trial']:.1%}" for one in runs.values()],
        "share of features": [f"{one['share_of_features']:.1%}" for one in runs.values()],
    }
    return "\n".join(
        [
            f"{result['backbone']}; {result['data']} ({pictures}), {spec['height']} px, {spec['trials']} trials of "
            f"{spec['epochs']} epochs; {result['device']}, {result['precision']}",
            "",
            f"| study | {' | '.join(runs)} |",
            "|---|" + "---|" * len(runs),
            *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()),
        ]
    )


if __name__ == "__main__":
    main()
