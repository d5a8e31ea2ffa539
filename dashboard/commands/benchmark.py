"""Commands that compare with published tables: benchmark mvtec, visa, btad, mpdd, novelty."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dashboard import wording
from dashboard.commands import reporting
from dashboard.commands.parsing import knobs, numbers, pixels
from dashboard.commands.reporting import command
from dashboard.commands.studies import Resize
from dashboard.errors import BadOption

if TYPE_CHECKING:
    from engine.backbones.resolve import Backbone
    from storage.layouts import Layout
    from storage.settings import Settings
    from tuning.paper_protocol import PaperResult, Spread

# Per published set what its help says: the set, and the folder to give.
SETS = {
    "mvtec": (
        "MVTec AD, or any folders in its layout",
        "A folder in the MVTec layout, or a folder of such folders.",
    ),
    "visa": ("VisA as published", "The folder that holds split_csv/1cls.csv and the objects' folders."),
    "btad": ("BTAD as published", "The folder that holds 01, 02 and 03, or one of these."),
    "mpdd": ("MPDD as published", "The folder that holds the categories, or one of these."),
}
PROTOCOL = """
Trains on all normal pictures and judges on the whole test set, mean and deviation over seeds.

The figures of the last epoch choose nothing on the test set. Beside them stand those of the best epoch on test, as
published code reports. Both stand beside published tables; they are no sealed test.
"""
AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings per category or class, with seeds 0, 1, …")]
Layers = Annotated[
    str | None,
    typer.Option(
        help="Backbone stages, or a transformer's blocks. Default: 2,3, or the blocks in their place."
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="PIXELS", help='Side that pictures are resized to, or "HEIGHTxWIDTH". Default: 256.'
    ),
]
Resizing = Annotated[
    Resize | None,
    typer.Option(help="How pictures of other proportions are laid on that size. Default: squash."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KNOB=VALUE",
        help='Another setting of the engine, such as "members=1". Repeat it for more.',
    ),
]
Published = Annotated[
    bool,
    typer.Option(
        "--published",
        help="The paper's own settings: middle 288 of 329 pixels, 1536 features, one member, 160 passes over the "
        "pictures. Hours on a CPU.",
    ),
]
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
    for name, (subject, folder) in SETS.items():
        summary = f"{subject}: image AUROC, pixel AUROC and AUPRO per category."
        group.command(name, help=summary + "\n" + PROTOCOL)(_set_command(name, folder))
    group.command()(novelty)
    app.add_typer(group, name="benchmark")


def _benchmark() -> None:
    """Compare with published tables under the paper's protocol."""


def _set_command(name: str, folder_help: str) -> Callable[..., None]:
    """The command of one published set; all of them take the same options."""

    @command
    def benchmark(
        root: Annotated[Path, typer.Argument(help=folder_help, exists=True, file_okay=False)],
        seeds: Seeds = 3,
        layers: Layers = None,
        size: Size = None,
        resize: Resizing = None,
        changes: Set = None,
        published: Published = False,
        backbone: BackboneName = None,
        weights: Weights = None,
        as_json: AsJson = False,
    ) -> None:
        from storage.published_sets import read_set
        from tuning.published_figures import table

        settings = reporting.read_settings()
        fields = _fields(layers, size, resize, changes)
        categories = read_set(name, root)
        for category, layout in categories.items():
            for note in layout.notes:
                reporting.say(f"{category}: {note}")
        found = _backbone(settings, backbone or "auto", weights)
        _complete(fields, found, published)
        results = {}
        for category, layout in categories.items():
            with reporting.progress_bar(f"{category}:", "") as progress:
                results[category] = _measure(layout, settings, seeds, fields, published, found, progress)
        rows = table(results, published=name == "mvtec")
        reporting.answer(rows, as_json=as_json, text=_text(rows, seeds))

    return benchmark


@command
def novelty(
    root: Annotated[
        Path,
        typer.Argument(help="A folder with train/<class> and test/<class>.", exists=True, file_okay=False),
    ],
    seeds: Seeds = 3,
    layers: Layers = None,
    size: Size = None,
    resize: Resizing = None,
    changes: Set = None,
    backbone: BackboneName = None,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Each class in turn is normal, all others are anomalous, as in the paper's CIFAR-10 task; whole images.

    No choice is made on the test pictures. These figures stand beside published tables; they are no sealed test.
    """
    from engine.config import SimpleNetConfig
    from tuning.novelty import novelty, read_classes

    settings = reporting.read_settings()
    fields = _fields(layers, size, resize, changes)
    classes = read_classes(root)
    found = _backbone(settings, backbone or "auto", weights)
    config = SimpleNetConfig.from_json(_complete(fields, found))
    with reporting.progress_bar(f"{root.name}:", "") as progress:
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


# Settings that have an option of their own.
OPTIONS = {
    "backbone": "backbone",
    "layers": "layers",
    "height": "size",
    "width": "size",
    "resize": "resize",
    "seed": "seeds",
}


def _fields(
    layers: str | None, size: str | None, resize: Resize | None, changes: list[str] | None
) -> dict[str, Any]:
    """The fields of a configuration that were asked for.

    Raises:
        BadOption: one can't be read, or a knob has several values.
    """
    fields: dict[str, Any] = {}
    for name, values in knobs(changes or [], "--set").items():
        if len(values) > 1:
            raise BadOption(f"--set {name} gives {len(values)} values; a benchmark takes one. Give one.")
        if name in OPTIONS:
            raise BadOption(f"--set can not change '{name}'. Use --{OPTIONS[name]}.")
        fields[name] = values[0]
    if layers is not None:
        fields["layers"] = numbers(layers, "--layers")
    if size is not None:
        fields["height"], fields["width"] = pixels(size)
    if resize is not None:
        fields["resize"] = resize.value
    return fields


def _complete(fields: dict[str, Any], backbone: "Backbone", published: bool = False) -> dict[str, Any]:
    """Add the backbone, and the layers to take of it; refuse what is no setting before any picture is read.

    Raises:
        InvalidConfig: a setting is unknown or out of its range.
        BadOption: the published settings don't fit the backbone.
    """
    from engine.config import SimpleNetConfig
    from engine.features import default_layers, has_blocks

    fields["backbone"] = backbone.name
    fields.setdefault("layers", default_layers(backbone.name))
    SimpleNetConfig.from_json(fields)
    if published and has_blocks(backbone.name):
        raise BadOption(
            f"--published is for backbones with stages; '{backbone.name}' is a transformer. Leave it out, or name "
            "another backbone."
        )
    return fields


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
    layout: "Layout",
    settings: "Settings",
    seeds: int,
    fields: "Mapping[str, Any]",
    published: bool,
    backbone: "Backbone",
    progress: reporting.Progress,
) -> "PaperResult":
    from engine.config import SimpleNetConfig
    from tuning.paper_protocol import LabelledPicture, paper_protocol

    test = [
        LabelledPicture(path=entry.path, label=entry.label, mask_paths=entry.mask_paths)
        for entry in layout.entries
        if entry.split == "test"
    ]
    train = [entry.path for entry in layout.entries if entry.split == "train"]
    return paper_protocol(
        train,
        test,
        SimpleNetConfig.published(len(train), **fields) if published else SimpleNetConfig.from_json(fields),
        backbone=backbone,
        seeds=range(seeds),
        device=settings.device,
        precision=settings.precision,
        on_progress=progress,
    )


def _text(rows: "Mapping[str, Mapping[str, Any]]", seeds: int) -> str:
    """Two tables: the last epoch's figures, and those of the best epoch on test with the paper's, if any."""
    from tuning.paper_protocol import BEST_ON_TEST
    from tuning.published_figures import SOURCE

    figures = ["image AUROC", "pixel AUROC", "AUPRO"]
    last = [[name, *_cells(row), row["test_pictures"], f"{row['seconds']:.0f}"] for name, row in rows.items()]
    best = [[name, *_cells(row["best_on_test"])] for name, row in rows.items()]
    notes = [
        f"protocol: paper (whole test set, {wording.plural(seeds, 'seed')})",
        "last epoch: nothing is chosen on the test set",
        f"best on test: {BEST_ON_TEST}",
    ]
    header = ["best on test", *figures]
    if any("published" in row for row in rows.values()):
        header.append("published image AUROC")
        for cells, row in zip(best, rows.values(), strict=True):
            cells.append(wording.number(row.get("published", {}).get("image_auroc")))
        notes.append(f"published: {SOURCE}")
    first = reporting.table(["last epoch", *figures, "test pictures", "seconds"], last)
    return "\n".join([first, "", reporting.table(header, best), "", *notes])


def _cells(row: "Mapping[str, Any]") -> list[str]:
    from tuning.paper_protocol import Spread

    spreads = (row[name] for name in ("image_auroc", "pixel_auroc", "aupro"))
    return [_cell(spread and Spread(**spread)) for spread in spreads]


def _cell(spread: "Spread | None") -> str:
    return "–" if spread is None else f"{spread.mean:.3f} ± {spread.deviation:.3f}"
