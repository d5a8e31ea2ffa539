"""Commands on studies: study, studies, pause, resume, cancel."""

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dashboard.commands import reporting
from dashboard.commands.reporting import ExitCode, command
from dashboard.commands.watching import follow
from dashboard.errors import BadOption

if TYPE_CHECKING:
    from storage.records import Study
    from storage.workspace import Workspace

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
StudyId = Annotated[
    int, typer.Argument(metavar="STUDY", help="Number of the study, as `simplenet studies` lists it.")
]


class Resize(StrEnum):
    """engine.geometry.RESIZES again, for the same reason as `Objective`."""

    SQUASH = "squash"  # the whole picture, its sides scaled apart
    LETTERBOX = "letterbox"  # the whole picture with bars beside it
    CROP = "crop"  # the middle, as the paper does


class Objective(StrEnum):
    """tuning.spec.Figure again: importing it would slow every `--help` down. A test holds the two together."""

    IMAGE_AUROC = "image_auroc"
    AUPRO = "aupro"
    AVERAGE_PRECISION = "average_precision"
    F1 = "f1"


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    app.command()(study)
    app.command(name="studies")(list_studies)
    for function in (pause, resume, cancel):
        app.command()(function)


@command
def study(
    name: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")],
    trials: Annotated[int, typer.Option(min=1, help="Configurations to try, the paper's own included.")] = 12,
    noise_std: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="Range of the noise σ to search. Default: 0.005 0.5."),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help='A choice of backbone stages, or of a transformer\'s blocks, such as "2,3"; repeat it for more '
            "choices. Default: five choices that suit the backbone."
        ),
    ] = None,
    adaptor_depths: Annotated[
        str | None, typer.Option(metavar="DEPTHS", help="Depths of the adaptor to search. Default: 0,1,2.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KNOB=VALUES",
            help='Another setting to search, such as "patch_size=1,3,5"; one value fixes it. Repeat it for more.',
        ),
    ] = None,
    objective: Annotated[
        Objective, typer.Option(help="Figure on the validation pictures to maximise.")
    ] = Objective.IMAGE_AUROC,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS", help='Side that pictures are resized to, or "HEIGHTxWIDTH". Default: 256.'
        ),
    ] = None,
    resize: Annotated[
        Resize, typer.Option(help="How pictures of other proportions are laid on that size.")
    ] = Resize.SQUASH,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="EPOCHS", help="Length of every trial. Default: the engine's."),
    ] = None,
    false_reject_rate: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Wanted share of normal parts rejected. Default: 0.05."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the search and of every training.")] = 0,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A timm model, or drawnet, which ships along. Default: the setting, else auto.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="safetensors file with the backbone's weights.", dir_okay=False),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave the study to the workers and return at once.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search the best model for a dataset and follow the search to its end.

    A worker is started when none is running. Ctrl-C stops following; the study goes on.
    """
    fields: dict[str, Any] = {
        "trials": trials,
        "objective": objective.value,
        "seed": seed,
        "resize": resize.value,
    }
    if noise_std is not None:
        fields["noise_std"] = noise_std
    if layers:
        fields["layers"] = tuple(numbers(choice, "--layers") for choice in layers)
    if adaptor_depths is not None:
        fields["adaptor_depths"] = numbers(adaptor_depths, "--adaptor-depths")
    if search:
        fields["knobs"] = knobs(search, "--search")
    if size is not None:
        fields["height"], fields["width"] = pixels(size)
    if epochs is not None:
        fields["epochs"] = epochs
    if false_reject_rate is not None:
        fields["false_reject_rate"] = false_reject_rate
    if backbone is not None:
        fields["backbones"] = (backbone,)
    if weights is not None:
        fields["weights"] = str(weights.expanduser().absolute())
    _launch(name, fields, detach=detach, as_json=as_json)


@command
def list_studies(
    dataset: Annotated[str | None, typer.Option(help="Only the studies of this dataset.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the studies, the newest first."""
    from storage import datasets, studies

    workspace = reporting.open_workspace()
    with workspace.session() as session:
        if dataset is not None:
            datasets.get_dataset(session, dataset)
        found = sorted(studies.list_studies(session, dataset=dataset), key=lambda item: item.id, reverse=True)
    text = reporting.table(
        ["study", "dataset", "state", "trial", "best", "name"],
        [
            [item.id, item.dataset_name, item.state.value, _trial_of(item), _best_of(item), item.name]
            for item in found
        ],
    )
    reporting.answer(
        found, as_json=as_json, text=text if found else "No study yet. Start one: simplenet study DATASET"
    )


@command
def pause(study_id: StudyId, as_json: AsJson = False) -> None:
    """Pause a study after its present step; `simplenet resume` goes on with it."""
    _want(study_id, "pause", as_json=as_json)


@command
def resume(study_id: StudyId, as_json: AsJson = False) -> None:
    """Let a paused study go on, as soon as a worker is free."""
    _want(study_id, "run", as_json=as_json)


@command
def cancel(study_id: StudyId, as_json: AsJson = False) -> None:
    """End a study for good after its present step; the runs of its trials stay in MLflow."""
    _want(study_id, "cancel", as_json=as_json)


def _launch(name: str, fields: dict[str, Any], *, detach: bool, as_json: bool) -> None:
    from tuning import queries
    from tuning.backbones import offered_layers
    from tuning.commands import launch_study
    from tuning.spec import StudySpec

    workspace = reporting.open_workspace()
    if "layers" not in fields:
        weights = fields.get("weights")
        fields["layers"] = offered_layers(
            workspace.settings, fields.get("backbones", ("auto",))[0], Path(weights) if weights else None
        )
    launched = launch_study(workspace, name, StudySpec(**fields))
    if detach:
        hint = f"Follow it: simplenet studies, or {_dashboard_url(workspace)}/studies?study={launched.id}"
        if not queries.worker_alive(workspace):
            hint = f"No worker is running; start one: simplenet worker (or everything: simplenet up). {hint}"
        reporting.answer(
            launched, as_json=as_json, text=f"Study {launched.id} of '{name}' waits for a worker. {hint}"
        )
        return
    try:
        ended = follow(workspace, launched)
    except KeyboardInterrupt:
        reporting.say(
            f"Stopped following; study {launched.id} goes on. See it: simplenet studies. "
            f"End it: simplenet cancel {launched.id}."
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    _conclude(workspace, ended, as_json=as_json)


def _conclude(workspace: "Workspace", study: "Study", *, as_json: bool) -> None:
    """Answer how the study ended, and end with the exit code that says so."""
    from storage import models
    from storage.records import StudyState

    with workspace.session() as session:
        made = [
            model for model in models.list_models(session, study.dataset_name) if model.study_id == study.id
        ]
    model = made[-1] if made else None
    reporting.answer({"study": study, "model": model}, as_json=as_json, text=_ending(study, model))
    code = {
        StudyState.COMPLETED: ExitCode.OK,
        StudyState.FAILED: ExitCode.FAILED,
        StudyState.CANCELLED: ExitCode.CANCELLED,
        StudyState.PAUSED: ExitCode.PAUSED,
    }[study.state]
    if study.state is StudyState.FAILED:
        reporting.say(f"error: study {study.id} failed: {study.error}")
    raise typer.Exit(code)


def _ending(study: "Study", model: Any) -> str:
    from dashboard.results import test_sentence

    lines = [f"Study {study.id} of '{study.dataset_name}': {study.state.value}."]
    if model is not None:
        lines.append(f"Model version {model.version} ({model.state.value}): {test_sentence(model.figures)}")
        lines.append(f"Next: simplenet heatmaps {study.dataset_name} --out heatmaps")
    if study.state.value == "paused":
        lines.append(f"Go on: simplenet resume {study.id}")
    return "\n".join(lines)


def _want(study_id: int, wanted: str, *, as_json: bool) -> None:
    from storage.records import Wanted
    from tuning import commands

    workspace = reporting.open_workspace()
    study = commands.want(workspace, study_id, Wanted(wanted))
    said = {
        "pause": "pauses after its present step",
        "run": "goes on",
        "cancel": "ends after its present step",
    }[wanted]
    state = "is cancelled" if study.state.value == "cancelled" else said
    reporting.answer(study, as_json=as_json, text=f"Study {study.id} of '{study.dataset_name}' {state}.")


def _dashboard_url(workspace: "Workspace") -> str:
    """Where the dashboard is, or would be: the supervisor may have had to choose another port."""
    from tuning import supervisor

    addresses = [
        status.address for status in supervisor.running(workspace.settings) if status.name == "dashboard"
    ]
    return next((address for address in addresses if address), workspace.settings.dashboard_url)


def _trial_of(study: "Study") -> str:
    done, trials = study.progress.get("trial", 0), study.spec["trials"]
    return f"{done} of {trials}" if trials else str(done)


def _best_of(study: "Study") -> str:
    best = study.progress.get("best")
    return "–" if best is None else f"{best:.3f}"


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers between commas: '2,3' → (2, 3).

    Raises:
        BadOption: it is something else.
    """
    try:
        return tuple(int(part) for part in text.replace("+", ",").split(","))
    except ValueError:
        raise BadOption(
            f"{option} '{text}' must be whole numbers between commas. Give for instance 2,3."
        ) from None


def knob(text: str, option: str) -> tuple[str, tuple[Any, ...]]:
    """A setting and its values: 'patch_size=1,3' → ('patch_size', (1, 3)). What the values may be, the study checks.

    Raises:
        BadOption: there is no = with something on both sides.
    """
    name, _, values = text.partition("=")
    if not name.strip() or not values.strip():
        raise BadOption(
            f"{option} '{text}' must be a setting, =, and values between commas. Give for instance patch_size=1,3,5."
        )
    return name.strip(), tuple(_value(part.strip()) for part in values.split(","))


def knobs(texts: list[str], option: str) -> dict[str, tuple[Any, ...]]:
    """All settings that an option named, each with its values.

    Raises:
        BadOption: one can't be read, or is named twice.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, values = knob(text, option)
        if name in found:
            raise BadOption(f"{option} names '{name}' twice. Give it once, its values between commas.")
        found[name] = values
    return found


def _value(text: str) -> bool | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def pixels(text: str) -> tuple[int, int]:
    parts = text.lower().replace("×", "x").split("x")
    try:
        sides = [int(part) for part in parts]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise BadOption(
            f"--size '{text}' must be a number of pixels or HEIGHTxWIDTH. Give for instance 256 or 256x320."
        )
    return sides[0], sides[-1]
