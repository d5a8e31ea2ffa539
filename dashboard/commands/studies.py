"""Commands on studies: study, knobs, pause, resume, cancel; those on studies that exist are in `steering`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dashboard.commands import parsing, reporting, steering
from dashboard.commands.reporting import ExitCode, command
from dashboard.commands.watching import follow
from dashboard.errors import BadOption

if TYPE_CHECKING:
    from storage.records import DatasetVersion, Study
    from storage.workspace import Workspace
    from tuning.spec import StudySpec

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
StudyId = Annotated[
    int, typer.Argument(metavar="STUDY", help="Number of the study, as `simplenet studies` lists it.")
]


class Resize(StrEnum):
    """engine.geometry.RESIZES again: importing it would slow every `--help` down. A test holds the two together."""

    SQUASH = "squash"  # the whole picture, its sides scaled apart
    LETTERBOX = "letterbox"  # the whole picture with bars beside it
    CROP = "crop"  # the middle, as the paper does


class Sampler(StrEnum):
    """tuning.spec.Sampler again, for the same reason."""

    TPE = "tpe"
    GP = "gp"
    CMAES = "cmaes"
    RANDOM = "random"
    GRID = "grid"


class Pruner(StrEnum):
    """tuning.spec.Pruner again."""

    MEDIAN = "median"
    HYPERBAND = "hyperband"
    NONE = "none"


class PresetName(StrEnum):
    """The names of tuning.presets.PRESETS again."""

    QUICK = "quick"
    STANDARD = "standard"
    THOROUGH = "thorough"


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    app.command()(study)
    app.command(name="knobs")(list_knobs)
    steering.register(app)
    for function in (log, pause, resume, cancel):
        app.command()(function)


@command
def study(
    name: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")],
    preset: Annotated[
        PresetName | None,
        typer.Option(
            help="What to begin with: quick (8 trials), standard (20), thorough (60, more settings, three seeds). "
            "Every other option replaces its part. Default: standard."
        ),
    ] = None,
    like: Annotated[
        int | None, typer.Option(metavar="STUDY", help="Begin with another study's settings instead.")
    ] = None,
    follow_trials: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="STUDY",
            help="Start from another study's trials: the sampler knows their values. Objective, size, epochs and seeds "
            "must be the same, so give --like, too. Its dataset version is taken.",
        ),
    ] = None,
    dataset_version: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="NUMBER", help="Version of the dataset to search on. Default: the latest."
        ),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say how long it would take on this machine.")
    ] = False,
    study_name: Annotated[str | None, typer.Option("--name", help="What to call the study.")] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Configurations to try, the paper's own included. Default: the preset's."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Begin no more trials after so many minutes of search; without --trials, nothing else ends it."
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="TRIALS",
            help="End after so many trials in a row without a new best; without --trials, nothing else ends it.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="By how much a new best must be better to count for --patience. Default: 0.001."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="FIGURE",
            help="Figure on the validation pictures to maximise: image_auroc, aupro, average_precision or f1; or "
            'weights of several, such as "image_auroc=0.7,aupro=0.3". Default: image_auroc.',
        ),
    ] = None,
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
            help='Another setting to search: values, such as "patch_size=1,3,5" (one value fixes it), or a range, such '
            'as "margin=0.1..2" or "final_lr=0..1:linear". Repeat it for more. `simplenet knobs` lists them all.',
        ),
    ] = None,
    sampler: Annotated[
        Sampler | None, typer.Option(help="Who proposes configurations. Default: tpe.")
    ] = None,
    pruner: Annotated[
        Pruner | None, typer.Option(help="Who ends hopeless trials early. Default: median.")
    ] = None,
    grid_steps: Annotated[
        int | None, typer.Option(help="Values that the sampler grid cuts a range into. Default: 5.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Trainings per trial; its value is their mean. Default: the preset's.")
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds that a picture may take on the worker's device; slower trials can't win."
        ),
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Higher is taken first. Default: 0.")] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS", help='Side that pictures are resized to, or "HEIGHTxWIDTH". Default: 256.'
        ),
    ] = None,
    resize: Annotated[
        Resize | None,
        typer.Option(help="How pictures of other proportions are laid on that size. Default: squash."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="EPOCHS", help="Length of every trial. Default: the engine's."),
    ] = None,
    false_reject_rate: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Wanted share of normal parts rejected. Default: 0.05."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the search and of every training. Default: 0.")] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A timm model, or drawnet, which ships along; repeat it to compare several. "
            "Default: the setting, else auto.",
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
    if preset is not None and like is not None:
        raise BadOption("--preset and --like both say what to begin with. Give one of them.")
    given: dict[str, Any] = {
        "trials": trials,
        "minutes": minutes,
        "patience": patience,
        "tolerance": tolerance,
        "objective": None if objective is None else parsing.objective(objective),
        "noise_std": noise_std,
        "layers": tuple(parsing.numbers(choice, "--layers") for choice in layers) if layers else None,
        "adaptor_depths": parsing.numbers(adaptor_depths, "--adaptor-depths") if adaptor_depths else None,
        "knobs": parsing.searched(search, "--search") if search else None,
        "sampler": sampler,
        "pruner": pruner,
        "grid_steps": grid_steps,
        "seeds": seeds,
        "latency_ms": latency_ms,
        "priority": priority,
        "resize": None if resize is None else resize.value,
        "epochs": epochs,
        "false_reject_rate": false_reject_rate,
        "seed": seed,
        "backbones": tuple(backbone) if backbone else None,
        "weights": None if weights is None else str(weights.expanduser().absolute()),
        "follows": follow_trials,
    }
    fields = {field: value for field, value in given.items() if value is not None}
    if size is not None:
        fields["height"], fields["width"] = parsing.pixels(size)
    if trials is None and (minutes is not None or patience is not None):
        fields["trials"] = None
    workspace = reporting.open_workspace()
    spec = _spec(workspace, fields, preset, like)
    version = _version(workspace, name, dataset_version, follow_trials)
    if estimate:
        _estimate(workspace, version, spec, as_json=as_json)
    else:
        _launch(workspace, version, spec, study_name, detach=detach, as_json=as_json)


@command
def list_knobs(as_json: AsJson = False) -> None:
    """List what a study can search: range or choices, and what each setting means."""
    from tuning.knobs import KNOBS, SEARCHED

    told = [
        {
            "name": name,
            "default": name in SEARCHED,
            "choices": knob.choices,
            "range": knob.range,
            "meaning": knob.meaning,
        }
        for name, knob in {**SEARCHED, **KNOBS}.items()
    ]
    rows = [
        [
            name,
            ",".join("+".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in knob.choices),
            f"{knob.range}{':log' if knob.range.log else ''}" if knob.range else "",
            knob.meaning,
        ]
        for name, knob in {**SEARCHED, **KNOBS}.items()
    ]
    text = reporting.table(["setting", "values worth trying", "range", "meaning"], rows)
    reporting.answer(told, as_json=as_json, text=text)


@command
def log(study_id: StudyId, as_json: AsJson = False) -> None:
    """Show the end of what workers logged of a study, on whatever machine they run; times are UTC."""
    from storage import studies
    from tuning.study_log import as_lines, last_entries

    workspace = reporting.open_workspace()
    with workspace.session() as session:
        studies.get_study(session, study_id)
    entries = last_entries(workspace, study_id)
    text = "\n".join(as_lines(entries)) or "No worker has logged anything of this study yet."
    reporting.answer(entries, as_json=as_json, text=text)


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


def _spec(
    workspace: "Workspace", fields: dict[str, Any], preset: PresetName | None, like: int | None
) -> "StudySpec":
    """The specification that the options come to."""
    from tuning import steering
    from tuning.backbones import common_layers
    from tuning.presets import STANDARD, preset_fields
    from tuning.spec import StudySpec

    if like is not None:
        with workspace.session() as session:
            from storage import studies

            base = steering.like(studies.get_study(session, like)).to_json()
        if "backbones" in fields:  # another backbone has other layers
            base.pop("layers")
    else:
        base = preset_fields(preset.value if preset else STANDARD)
    if {"minutes", "patience"} & set(fields):  # what ends the study is said anew, as a whole
        base |= {"minutes": None, "patience": None}
    knobs = {**base.get("knobs", {}), **fields.get("knobs", {})}  # --search adds to what is searched anyway
    wanted = base | fields | {"knobs": knobs}
    if "layers" not in wanted:
        backbones = wanted.get("backbones", ("auto",))
        wanted["layers"] = common_layers(workspace.settings, backbones, wanted.get("weights"))
    return StudySpec(**wanted)


def _version(workspace: "Workspace", name: str, number: int | None, followed: int | None) -> "DatasetVersion":
    """The version to search on: the one named, that of the study whose trials are taken over, or the latest."""
    from storage import datasets, studies

    with workspace.session() as session:
        if number is not None:
            return datasets.numbered_version(session, name, number)
        if followed is not None:
            study = studies.get_study(session, followed)
            if study.dataset_name == name:
                return datasets.get_version(session, study.dataset_version_id)
        return datasets.latest_version(session, name)


def _estimate(workspace: "Workspace", version: "DatasetVersion", spec: "StudySpec", *, as_json: bool) -> None:
    from dashboard import wording
    from tuning.estimate import estimate

    found = estimate(workspace, version, spec)
    if found is None:
        raise BadOption(
            f"The time of a study on backbone '{spec.backbone}' can't be told: its weights, or the device "
            f"'{workspace.settings.device}', are not on this machine. Give a --weights file or another --backbone."
        )
    told = {**reporting.plain(found), "seconds": found.seconds, "spec": spec.to_json()}
    reporting.answer(told, as_json=as_json, text=wording.estimate(found))


def _say_how_long(workspace: "Workspace", study: "Study", spec: "StudySpec") -> None:
    """Tell the time that a study will take, where that is known without measuring beside its worker."""
    from dashboard import wording
    from storage import datasets
    from tuning.estimate import estimate

    with workspace.session() as session:
        version = datasets.get_version(session, study.dataset_version_id)
    found = estimate(workspace, version, spec, measure=False)
    if found is not None:
        reporting.say(f"Study {study.id} takes {wording.estimate(found)}.")


def _launch(
    workspace: "Workspace",
    version: "DatasetVersion",
    spec: "StudySpec",
    study_name: str | None,
    *,
    detach: bool,
    as_json: bool,
) -> None:
    from tuning import queries
    from tuning.commands import launch_study

    launched = launch_study(workspace, version.dataset_name, spec, name=study_name, version_id=version.id)
    if not detach:
        _say_how_long(workspace, launched, spec)
    if detach:
        hint = f"Follow it: simplenet studies, or {_dashboard_url(workspace)}/studies?study={launched.id}"
        if not queries.worker_alive(workspace):
            hint = f"No worker is running; start one: simplenet worker (or everything: simplenet up). {hint}"
        reporting.answer(
            launched,
            as_json=as_json,
            text=f"Study {launched.id} of '{launched.dataset_name}' waits for a worker. {hint}",
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
