"""What a study is worth: its champion against the paper's settings, on pictures that chose nothing.

    python -m benchmarks.gain --data ../shared/data/magnetic_tile
    python -m benchmarks.gain --data ../shared/data/magnetic_tile --weights …/resnet18.tv_in1k.safetensors

Per seed of a study, all through the product: the pictures are taken in, a study of a preset is run to its champion, and
its first trial, which has the paper's settings, is made a candidate as well, so that both are judged once on the same
sealed test pictures. Then the anomalous pictures of validation are taken out of the dataset, which leaves the study no
labelled defect to choose by, and the same study is run again: its champion is judged on the same sealed test pictures.
At last each champion's settings are trained on all normal training pictures and judged on the whole test set
(protocol=paper, seeds 0, 1 and 2); whoever reads that must know that a part of that test set is the validation that
chose the settings. On `magnetic_tile` read a gain with a grain of salt: the settings that the presets try second were
found by looking at its whole test set (docs/log.md).

The splits are the product's own and the same for all seeds. Told are mean and standard deviation over the seeds.
"""

import argparse
import os
import statistics
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, add_backbone_options, chosen_backbone, machine, write_json
from engine.backbones.resolve import Backbone
from engine.config import SimpleNetConfig
from storage import datasets, edits, models, studies
from storage.layouts import scan
from storage.records import Edit, Label, Model, Role, StudyState, now
from storage.settings import PREFIX, Settings
from storage.workspace import Workspace, open_workspace
from tuning import candidates
from tuning.backbones import offered_layers
from tuning.commands import ingest_folder, launch_study
from tuning.paper_protocol import LabelledPicture, paper_protocol
from tuning.presets import PRESETS, STANDARD, preset_spec
from tuning.spec import StudySpec
from tuning.versions import save_edits
from tuning.worker import run_worker

DATASET = "pictures"
WHO = "benchmark"
PAPER_TRIAL = 0  # every study begins with the paper's settings
ROWS = {
    "paper": "the paper's settings, sealed test",
    "champion": "champion of the study, sealed test",
    "gain": "gain of the study",
    "label_free": "champion of the study without labelled defects, sealed test",
    "lost": "lost by having no labels",
    "paper_protocol": "champion's settings, protocol=paper, whole test set",
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder in the MVTec layout, with defects")
    add_backbone_options(parser)
    parser.add_argument("--preset", choices=PRESETS, default=STANDARD, help=f"default: {STANDARD}")
    parser.add_argument("--seeds", type=int, default=3, help="studies, with seeds 0, 1, …; default: 3")
    parser.add_argument("--trials", type=int, help="instead of the preset's")
    parser.add_argument("--epochs", type=int, help="instead of the preset's")
    parser.add_argument("--size", type=int, default=StudySpec.height, help="of the network's input, pixels")
    parser.add_argument("--json", type=Path, default=RESULTS / "gain.json", metavar="FILE")
    options = parser.parse_args(arguments)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]  # this measurement's databases must not be those of a real installation
    found: list[dict[str, Any]] = []
    with chosen_backbone(options) as backbone:
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                found.append(measure(Path(folder), backbone, options, seed))
            print(as_row(found[-1]), flush=True)
            told = {
                "machine": machine(),
                "data": options.data.name,
                "backbone": backbone.text,
                "seeds": found,
            }
            write_json(options.json, told)
    print(as_table(found))


def measure(folder: Path, backbone: Backbone, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run both studies of a seed in an installation of its own, and judge what they chose."""
    workspace = open_workspace(Settings(home=folder / "home"))
    try:
        ingest_folder(workspace, options.data, DATASET)
        given = {"trials": options.trials, "epochs": options.epochs}
        spec = preset_spec(
            options.preset,
            seed=seed,
            height=options.size,
            width=options.size,
            backbones=(backbone.name,),
            weights=str(backbone.weights),
            layers=offered_layers(workspace.settings, backbone.name, backbone.weights),
            **{name: value for name, value in given.items() if value is not None},
        )
        champion, study_id = _study(workspace, spec)
        paper = candidates.make(workspace, study_id, PAPER_TRIAL, who=WHO, progress=lambda *_: None)
        _without_validation_defects(workspace)
        label_free, _ = _study(workspace, spec)
    finally:
        workspace.close()
    return {
        "seed": seed,
        "paper": _judged(paper),
        "champion": _judged(champion),
        "label_free": _judged(label_free),
        "paper_protocol": _whole_test_set(options.data, champion.config, backbone),
    }


def _study(workspace: Workspace, spec: StudySpec) -> tuple[Model, int]:
    queued = launch_study(workspace, DATASET, spec)
    run_worker(workspace, worker_id="measured", stop=threading.Event(), study_id=queued.id)
    with workspace.session() as session:
        study = studies.get_study(session, queued.id)
        if study.state is not StudyState.COMPLETED:
            raise SystemExit(f"The study is {study.state}: {study.error}")
        made = [model for model in models.list_models(session, DATASET) if model.study_id == study.id]
    return made[0], study.id


def _without_validation_defects(workspace: Workspace) -> None:
    with workspace.session() as session:
        latest = datasets.latest_version(session, DATASET)
        images = datasets.list_images(session, latest.id, role=Role.VALIDATION)
        anomalous = [image for image in images if image.label is Label.ANOMALOUS]
        removals = [Edit(pixel_digest=image.pixel_digest, remove=True) for image in anomalous]
        edits.put_edits(session, DATASET, removals, who=WHO, now=now())
    save_edits(workspace, DATASET, who=WHO)


def _judged(model: Model) -> dict[str, Any]:
    test = model.figures["test"]
    return {
        "image_auroc": test["image_auroc"],
        "images": test["images"],
        "objective": model.figures["objective_value"],
        "trial": model.trial_number + 1,
        "config": dict(model.config),
    }


def _whole_test_set(data: Path, config: Mapping[str, Any], backbone: Backbone) -> list[float]:
    entries = scan(data).entries
    result = paper_protocol(
        [entry.path for entry in entries if entry.split == "train"],
        [
            LabelledPicture(path=entry.path, label=entry.label, mask_paths=entry.mask_paths)
            for entry in entries
            if entry.split == "test"
        ],
        SimpleNetConfig.from_json(dict(config)),
        backbone=backbone,
    )
    return [one.image_auroc for one in result.seeds]


def values(found: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Image AUROC by row of the table, a value per seed."""
    own = {name: [one[name]["image_auroc"] for one in found] for name in ("paper", "champion", "label_free")}
    return {
        **own,
        "gain": [after - before for after, before in zip(own["champion"], own["paper"], strict=True)],
        "lost": [with_ - without for with_, without in zip(own["champion"], own["label_free"], strict=True)],
        "paper_protocol": [statistics.mean(one["paper_protocol"]) for one in found],
    }


def as_row(one: Mapping[str, Any]) -> str:
    """A line about one seed."""
    said = ", ".join(f"{name} {value[0]:.4f}" for name, value in values([one]).items())
    return f"seed {one['seed']}: {said}; champion was trial {one['champion']['trial']}"


def as_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Mean and deviation over the seeds, as markdown."""
    lines = ["| image AUROC | mean ± deviation | seeds |", "|---|---|---|"]
    for name, own in values(found).items():
        spread = statistics.stdev(own) if len(own) > 1 else 0.0
        each = ", ".join(f"{value:.3f}" for value in own)
        lines.append(f"| {ROWS[name]} | {statistics.mean(own):.3f} ± {spread:.3f} | {each} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
