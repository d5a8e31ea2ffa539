"""Commands on models and what they see: heatmaps, score, promote and its like, export-model, backbones."""

import csv
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dashboard import wording
from dashboard.commands import reporting
from dashboard.commands.reporting import ExitCode, command

if TYPE_CHECKING:
    from storage.listing import SourceFile
    from storage.records import ImageRecord, Model
    from storage.workspace import Workspace

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
Name = Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")]


class Runtime(StrEnum):
    """tuning.predictor.RUNTIMES again: importing it would slow every `--help` down."""

    TORCH = "torch"  # as the champion was judged
    OPENVINO = "openvino"  # equal within rounding
    OPENVINO_BF16 = "openvino-bf16"  # faster, scores move by some hundredths of their spread


class RoleName(StrEnum):
    """Which pictures to draw heatmaps of; storage.records.Role again, for a fast `--help`."""

    TRAIN = "train"
    CALIBRATION = "calibration"
    VALIDATION = "validation"
    TEST = "test"


class SortBy(StrEnum):
    """What the names of written pictures sort by."""

    SCORE = "score"
    NAME = "name"


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    app.command()(heatmaps)
    app.command()(score)
    app.command(name="models")(list_models)
    app.command()(promote)
    app.command(name="backbones")(list_backbones)


@command
def heatmaps(
    name: Name,
    out: Annotated[Path, typer.Option(help="Folder to write to; made when it is new.", file_okay=False)],
    role: Annotated[RoleName, typer.Option(help="Which pictures.")] = RoleName.TEST,
    sort_by: Annotated[
        SortBy, typer.Option(help="What the files' names sort by: the highest score first, or the name.")
    ] = SortBy.SCORE,
    as_json: AsJson = False,
) -> None:
    """Write the champion's heatmaps over its pictures: a PNG each, and index.csv with scores and decisions."""
    from storage import datasets
    from storage.records import Role
    from tuning import predictor

    workspace = reporting.open_workspace()
    champion = predictor.champion(workspace, name)
    with workspace.session() as session:
        images = datasets.list_images(session, champion.dataset_version_id, role=Role(role.value))
    if not images:
        reporting.say(f"error: dataset '{name}' has no {role.value} pictures. Choose another --role.")
        raise typer.Exit(ExitCode.NOTHING)
    rows = _write_overlays(workspace, champion, images, out, sort_by)
    reporting.answer(
        {
            "dataset": name,
            "model_version": champion.version,
            "role": role.value,
            "folder": str(out),
            "pictures": rows,
        },
        as_json=as_json,
        text=f"{len(rows)} heatmaps and index.csv of model version {champion.version} in {out}",
    )


@command
def score(
    name: Name,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="Pictures to score, folders of them, or archives (zip, tar).", exists=True
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for scores.csv, overlays and maps (.npy); made when it is new. The same command on the same "
            "folder goes on where it was interrupted.",
            file_okay=False,
        ),
    ] = None,
    runtime: Annotated[
        Runtime,
        typer.Option(
            help="What computes. openvino (an extra; it compiles first, some 2 s): equal within rounding. "
            "openvino-bf16: several times faster where the processor multiplies in bf16; scores near the threshold may "
            "change sides."
        ),
    ] = Runtime.TORCH,
    as_json: AsJson = False,
) -> None:
    """Score pictures with the champion: score and decision and, with --out, the heatmap and the map of each.

    A picture that can't be read is told and stops nothing; the exit code is 1 then.
    """
    import tempfile

    from tuning import batches, predictor

    workspace = reporting.open_workspace()
    model = predictor.champion(workspace, name)
    with tempfile.TemporaryDirectory(prefix="score-", dir=out and _made(out)) as unpacked:
        with reporting.progress_bar("Unpacking") as progress:
            files, skipped = batches.sort_out(_listed(images), Path(unpacked), progress.of_bytes)
        if not files:
            reporting.say(
                "error: there is no picture in what was given. Give PNG, JPEG, BMP, TIFF or WebP files."
            )
            raise typer.Exit(ExitCode.NOTHING)
        rows = _scored(workspace, model, files, out, runtime)
    failed = [row for row in rows if "error" in row]
    header = ["decision", "score", "threshold", "image"]
    text = reporting.table(
        header,
        [
            [row["decision"], f"{row['score']:.4f}", f"{row['threshold']:.4f}", row["image"]]
            for row in rows
            if "error" not in row
        ],
    )
    reporting.answer(rows, as_json=as_json, text=text if len(rows) > len(failed) else "")
    for row in failed:
        reporting.say(f"error: {row['error']}")
    if skipped:
        reporting.say(f"Left out: {wording.plural(len(skipped), 'file')} of no kind that is read.")
    if failed:
        raise typer.Exit(ExitCode.ERROR)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _listed(paths: Sequence[Path]) -> "list[SourceFile]":
    """The files that were named, and those of the folders that were; called as the paths that lead to them."""
    from storage.listing import SourceFile, walk

    files: list[SourceFile] = []
    for path in paths:
        if path.is_dir():
            files += [SourceFile(name=f"{path.name}/{file.name}", path=file.path) for file in walk(path)]
        else:
            files.append(SourceFile(name=str(path), path=path))
    return files


def _scored(
    workspace: "Workspace", model: "Model", files: "Sequence[SourceFile]", out: Path | None, runtime: Runtime
) -> list[dict[str, Any]]:
    """Rows of the answer, in the order of the files; with `out`, everything is kept there, too."""
    from dashboard.overlays import drawer
    from tuning import operating_points, predictor
    from tuning.batch_scoring import named_files, score_batch

    scorer = predictor.scorer(workspace, model, runtime.value)
    threshold = operating_points.threshold_of(workspace, model)
    rows: list[dict[str, Any]] = []
    with reporting.progress_bar("Scoring") as progress:
        if out is not None:
            found = score_batch(
                scorer,
                model,
                threshold,
                files,
                out,
                keep=named_files(out, drawer(model)),
                runtime=runtime.value,
                progress=progress,
            )
            for one in found:
                if one.error is not None:
                    rows.append({"image": one.name, "error": one.error})
                    continue
                rows.append(
                    {
                        "image": one.name,
                        "score": one.score,
                        "threshold": one.threshold,
                        "decision": one.decision,
                        "heatmap": out / str(one.overlay),
                        "map": out / str(one.map),
                    }
                )
            return rows
        for done, file in enumerate(files):
            progress(done, len(files), file.name)
            for item in predictor.score_file(scorer, file, threshold):
                if isinstance(item, predictor.UnscoredFile):
                    rows.append({"image": item.name, "error": item.error})
                    continue
                rows.append(
                    {
                        "image": item.name,
                        "score": item.score,
                        "threshold": item.threshold,
                        "decision": item.decision,
                        "heatmap": None,
                        "map": None,
                    }
                )
    return rows


@command
def list_models(
    name: Annotated[
        str | None, typer.Argument(metavar="[DATASET]", help="Only the models of this dataset.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models with their figures on the sealed test pictures."""
    from dashboard.results import test_sentence
    from dashboard.wording import configuration
    from storage import datasets, models

    workspace = reporting.open_workspace()
    with workspace.session() as session:
        if name is not None:
            datasets.get_dataset(session, name)
        found = models.list_models(session, name)
    text = reporting.table(
        ["dataset", "version", "state", "study", "configuration", "test"],
        [
            [
                model.dataset_name,
                model.version,
                model.state.value,
                model.study_id,
                configuration(model.config),
                test_sentence(model.figures),
            ]
            for model in found
        ],
    )
    reporting.answer(
        found, as_json=as_json, text=text if found else "No model yet. Run a study: simplenet study DATASET"
    )


@command
def promote(
    name: Name,
    version: Annotated[int, typer.Argument(help="Version of the model, as `simplenet models` lists it.")],
    why: Annotated[str, typer.Option(help="The reason, for the record.")],
    as_json: AsJson = False,
) -> None:
    """Make a model its dataset's champion. The former champion stays and can be promoted again."""
    from tuning import commands
    from tuning.champion import current_user

    workspace = reporting.open_workspace()
    promotion = commands.promote(workspace, name, version, who=current_user(), why=why)
    text = (
        f"Version {version} was the champion of '{name}' already; MLflow points at it again."
        if promotion is None
        else f"Version {version} is now the champion of '{name}'."
    )
    reporting.answer(promotion, as_json=as_json, text=text)


def _write_overlays(
    workspace: "Workspace", model: "Model", images: "Sequence[ImageRecord]", out: Path, sort_by: SortBy
) -> list[dict[str, Any]]:
    """Write one PNG per picture and index.csv; answers the rows of the index, in the order of the files' names.

    Two passes over the pictures, the second from the cache: the names need all scores, and the maps may not fit in
    memory.
    """
    from dashboard.overlays import drawer
    from engine.images import decode
    from tuning import predictor
    from tuning.operating_points import threshold_of

    with reporting.progress_bar("Scoring") as progress:
        scores = {
            item.image.id: item.score
            for item in predictor.score_images(workspace, model, images, progress=progress)
        }
    ordered = sorted(images, key=lambda image: image.name)
    if sort_by is SortBy.SCORE:
        ordered.sort(key=lambda image: -scores[image.id])
    threshold = threshold_of(workspace, model)
    draw = drawer(model)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with reporting.progress_bar("Drawing") as progress:
        for item in predictor.score_images(workspace, model, ordered, progress=progress):
            file_name = _file_name(len(rows) + 1, len(ordered), item.score, item.image.name)
            pixels = decode(workspace.blobs.get(item.image.digest), item.image.name)
            (out / file_name).write_bytes(draw(pixels, item.anomaly_map))
            rows.append(
                {
                    "file": file_name,
                    "image": item.image.name,
                    "score": item.score,
                    "threshold": threshold,
                    "decision": item.decision,
                    "label": item.image.label.value,
                    "defect_type": item.image.defect_type,
                }
            )
    with (out / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _file_name(place: int, total: int, score: float, name: str) -> str:
    """'007_score-1.234_test-scratch-003.png': sorting by name keeps the order of the list."""
    flat = name.replace("/", "-").replace("\\", "-").rsplit(".", 1)[0]
    return f"{place:0{len(str(total))}d}_score{score:+.4f}_{flat}.png"


@command
def list_backbones(as_json: AsJson = False) -> None:
    """List the backbones to choose from, their licence, and whether their weights are on this machine."""
    from tuning.backbones import backbone_status, offered_backbones

    workspace = reporting.open_workspace()
    offered = offered_backbones(workspace.settings)
    rows = [[item.name, item.origin or "the hub", item.licence or "unknown", item.about] for item in offered]
    status = backbone_status(workspace)
    used = wording.backbone(status.text, status.stronger) if status.ready else status.text
    text = reporting.table(["backbone", "weights", "licence", "about"], rows)
    reporting.answer(
        {"auto": status, "offered": offered},
        as_json=as_json,
        text=f"{text}\nAny other timm model can be named too. A study that names none here takes:\n{used}",
    )
