"""Commands that compare with published tables: benchmark mvtec, benchmark novelty."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dashboard import wording
from dashboard.commands import reporting
from dashboard.commands.reporting import command

if TYPE_CHECKING:
    from engine.backbones.resolve import Backbone
    from storage.settings import Settings
    from tuning.paper_protocol import PaperResult, Spread

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings per category or class, with seeds 0, 1, …")]
Layers = Annotated[str, typer.Option(help="Backbone stages.")]
Size = Annotated[int, typer.Option(min=32, help="Side that pictures are resized to, pixels.")]
BackboneName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="A timm model, or drawnet, which ships along. Default: the setting, else auto."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="safetensors file with the backbone's weights.", dir_okay=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    group = typer.Typer(no_args_is_help=True)
    group.callback()(_benchmark)
    group.command()(mvtec)
    group.command()(novelty)
    app.add_typer(group, name="benchmark")


def _benchmark() -> None:
    """Compare with published tables under the paper's protocol."""


@command
def mvtec(
    root: Annotated[
        Path,
        typer.Argument(
            help="A folder in the MVTec layout, or a folder of such folders.", exists=True, file_okay=False
        ),
    ],
    seeds: Seeds = 3,
    layers: Layers = "2,3",
    size: Size = 256,
    backbone: BackboneName = None,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Train on all normal pictures, judge on the whole test set, mean and deviation over seeds.

    No choice is made on the test set. These figures stand beside published tables; they are no sealed test.
    """
    from dashboard.commands.studies import numbers

    settings = reporting.read_settings()
    folders = _categories(root)
    found = _backbone(settings, backbone or "auto", weights)
    results = {}
    for folder in folders:
        with reporting.progress_bar(folder.name) as progress:
            results[folder.name] = _measure(
                folder, settings, seeds, numbers(layers, "--layers"), size, found, progress
            )
    rows = [[name, *_cells(result)] for name, result in results.items()]
    header = ["category", "image AUROC", "pixel AUROC", "AUPRO", "test pictures", "seconds"]
    text = (
        reporting.table(header, rows)
        + f"\nprotocol: paper (whole test set, last epoch, {wording.plural(seeds, 'seed')})"
    )
    reporting.answer({name: result.to_json() for name, result in results.items()}, as_json=as_json, text=text)


@command
def novelty(
    root: Annotated[
        Path,
        typer.Argument(help="A folder with train/<class> and test/<class>.", exists=True, file_okay=False),
    ],
    seeds: Seeds = 3,
    layers: Layers = "2,3",
    size: Size = 256,
    backbone: BackboneName = None,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Each class in turn is normal, all others are anomalous, as in the paper's CIFAR-10 task; whole images.

    No choice is made on the test pictures. These figures stand beside published tables; they are no sealed test.
    """
    from dashboard.commands.studies import numbers
    from engine.config import SimpleNetConfig
    from tuning.novelty import novelty, read_classes

    settings = reporting.read_settings()
    classes = read_classes(root)
    found = _backbone(settings, backbone or "auto", weights)
    config = SimpleNetConfig(backbone=found.name, layers=numbers(layers, "--layers"), height=size, width=size)
    with reporting.progress_bar(root.name) as progress:
        result = novelty(
            classes,
            config,
            backbone=found,
            seeds=range(seeds),
            device=settings.device,
            precision=settings.precision,
            on_progress=progress,
        )
    rows: list[list[object]] = [
        [name, _cell(result.of(name)), result.train_pictures[name], result.test_pictures[name]]
        for name in classes
    ]
    pictures = [sum(counts.values()) for counts in (result.train_pictures, result.test_pictures)]
    rows.append(["mean", _cell(result.mean), *pictures])
    text = (
        reporting.table(["normal class", "image AUROC", "train", "test"], rows)
        + f"\none class normal, whole images, last epoch, {wording.plural(seeds, 'seed')}"
    )
    reporting.answer(result.to_json(), as_json=as_json, text=text)


def _categories(root: Path) -> list[Path]:
    """The folder itself, or the folders inside it that have a `train` folder."""
    if (root / "train").is_dir():
        return [root]
    return sorted(folder for folder in root.iterdir() if (folder / "train").is_dir()) or [root]


def _backbone(settings: "Settings", name: str, weights: Path | None) -> "Backbone":
    """Resolve and tell the backbone, once for all categories: one table, one backbone."""
    from engine.backbones.resolve import resolve_backbone
    from engine.devices import resolve_device
    from tuning.backbones import wanted_backbone

    name, weights = wanted_backbone(settings, name, weights)
    found = resolve_backbone(name, weights, resolve_device(settings.device))
    reporting.say(wording.backbone(found.text, found.stronger))
    return found


def _measure(
    folder: Path,
    settings: "Settings",
    seeds: int,
    layers: tuple[int, ...],
    size: int,
    backbone: "Backbone",
    progress: reporting.Progress,
) -> "PaperResult":
    from engine.config import SimpleNetConfig
    from storage.layouts import scan
    from tuning.paper_protocol import LabelledPicture, paper_protocol

    entries = scan(folder).entries
    test = [
        LabelledPicture(path=entry.path, label=entry.label, mask_path=entry.mask_path)
        for entry in entries
        if entry.split == "test"
    ]
    return paper_protocol(
        [entry.path for entry in entries if entry.split == "train"],
        test,
        SimpleNetConfig(backbone=backbone.name, layers=layers, height=size, width=size),
        backbone=backbone,
        seeds=range(seeds),
        device=settings.device,
        precision=settings.precision,
        on_progress=progress,
    )


def _cells(result: "PaperResult") -> list[object]:
    figures = [
        _cell(spread)
        for spread in (result.last_epoch.image_auroc, result.last_epoch.pixel_auroc, result.last_epoch.aupro)
    ]
    return [*figures, result.test_pictures, f"{result.seconds:.0f}"]


def _cell(spread: "Spread | None") -> str:
    return "–" if spread is None else f"{spread.mean:.3f} ± {spread.deviation:.3f}"
