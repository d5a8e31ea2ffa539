"""The command that compares with published tables: benchmark mvtec."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dashboard.commands import reporting
from dashboard.commands.reporting import command

if TYPE_CHECKING:
    from storage.settings import Settings
    from tuning.paper_protocol import PaperResult, Spread

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the command to `simplenet`."""
    group = typer.Typer(no_args_is_help=True)
    group.callback()(_benchmark)
    group.command()(mvtec)
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
    seeds: Annotated[int, typer.Option(min=1, help="Trainings per category, with seeds 0, 1, …")] = 3,
    layers: Annotated[str, typer.Option(help="Backbone stages.")] = "2,3",
    size: Annotated[int, typer.Option(min=32, help="Side that pictures are resized to, pixels.")] = 256,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Backbone, as timm names it. Default: the setting, else resnet18."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="safetensors file with the backbone's weights.", dir_okay=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train on all normal pictures, judge on the whole test set, mean and deviation over seeds.

    No choice is made on the test set. These figures stand beside published tables; they are no sealed test.
    """
    from dashboard.commands.studies import numbers
    from dashboard.wording import plural

    settings = reporting.read_settings()
    folders = _categories(root)
    results = {}
    for folder in folders:
        with reporting.progress_bar(folder.name) as progress:
            results[folder.name] = _measure(
                folder, settings, seeds, numbers(layers, "--layers"), size, backbone, weights, progress
            )
    rows = [[name, *_cells(result)] for name, result in results.items()]
    header = ["category", "image AUROC", "pixel AUROC", "AUPRO", "test pictures", "seconds"]
    text = (
        reporting.table(header, rows)
        + f"\nprotocol: paper (whole test set, last epoch, {plural(seeds, 'seed')})"
    )
    reporting.answer({name: result.to_json() for name, result in results.items()}, as_json=as_json, text=text)


def _categories(root: Path) -> list[Path]:
    """The folder itself, or the folders inside it that have a `train` folder."""
    if (root / "train").is_dir():
        return [root]
    return sorted(folder for folder in root.iterdir() if (folder / "train").is_dir()) or [root]


def _measure(
    folder: Path,
    settings: "Settings",
    seeds: int,
    layers: tuple[int, ...],
    size: int,
    backbone: str | None,
    weights: Path | None,
    progress: reporting.Progress,
) -> "PaperResult":
    from engine.config import SimpleNetConfig
    from engine.features import resolve_backbone
    from storage.layouts import scan
    from tuning.backbones import wanted_backbone
    from tuning.paper_protocol import LabelledPicture, paper_protocol

    entries = scan(folder).entries
    test = [
        LabelledPicture(path=entry.path, label=entry.label, mask_path=entry.mask_path)
        for entry in entries
        if entry.split == "test"
    ]
    found = resolve_backbone(*wanted_backbone(settings, backbone or "auto", weights))
    return paper_protocol(
        [entry.path for entry in entries if entry.split == "train"],
        test,
        SimpleNetConfig(backbone=found.name, layers=layers, height=size, width=size),
        backbone=found,
        seeds=range(seeds),
        device=settings.device,
        precision=settings.precision,
        on_progress=progress,
    )


def _cells(result: "PaperResult") -> list[object]:
    def cell(spread: "Spread | None") -> str:
        return "–" if spread is None else f"{spread.mean:.3f} ± {spread.deviation:.3f}"

    figures = [cell(spread) for spread in (result.image_auroc, result.pixel_auroc, result.aupro)]
    return [*figures, result.test_pictures, f"{result.seconds:.0f}"]
