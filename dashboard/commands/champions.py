"""Commands on the life of a champion: rollback, policy, candidate, compare-models, export-model."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dashboard import wording
from dashboard.commands import reporting
from dashboard.commands.models import AsJson, Name
from dashboard.commands.reporting import command


class RuleName(StrEnum):
    """storage.records.PromotionRule again, for a fast `--help`."""

    MANUAL = "manual"
    AUTOMATIC = "automatic"


class FormatName(StrEnum):
    """tuning.model_exports.Format again, for a fast `--help`."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    SAFETENSORS = "safetensors"


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    app.command()(rollback)
    app.command()(policy)
    app.command()(candidate)
    app.command(name="compare-models")(compare_two)
    app.command(name="export-model")(export_model)


@command
def rollback(
    name: Name,
    why: Annotated[str, typer.Option(help="A reason, for the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make the champion before the present one champion again; done twice, it is undone."""
    from tuning import commands
    from tuning.champion import current_user

    workspace = reporting.open_workspace()
    model = commands.rollback(workspace, name, who=current_user(), why=why)
    reporting.answer(
        model, as_json=as_json, text=f"Version {model.version} is the champion of '{name}' again."
    )


@command
def policy(
    name: Name,
    rule: Annotated[
        RuleName | None,
        typer.Argument(
            help="automatic: a study promotes its model where it is better on validation and not clearly worse on the "
            "sealed test. manual: only people promote. Left out: tell what holds."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say who promotes a dataset's models: its studies, or only people."""
    from storage.policies import promotion_policy
    from storage.records import PromotionRule
    from tuning import commands
    from tuning.champion import current_user

    workspace = reporting.open_workspace()
    if rule is not None:
        commands.set_promotion_policy(workspace, name, PromotionRule(rule.value), who=current_user())
    with workspace.session() as session:
        holds = promotion_policy(session, name)
    since = f", set by {holds.who}, {wording.moment(holds.set_at)}" if holds.who else ", the default"
    reporting.answer(holds, as_json=as_json, text=f"Promotions of '{name}' are {holds.rule.value}{since}.")


@command
def candidate(
    study: Annotated[int, typer.Argument(help="Number of the study, as `simplenet studies` lists it.")],
    trial: Annotated[int, typer.Argument(help="Number of a completed trial of it, from 1.")],
    as_json: AsJson = False,
) -> None:
    """Register a completed trial as a candidate. It reads the sealed test pictures once more, and that is recorded."""
    from tuning import candidates
    from tuning.champion import current_user

    workspace = reporting.open_workspace()
    found, _ = candidates.completed_trial(workspace, study, trial - 1)
    before = candidates.sealed_readings(workspace, found.dataset_version_id)
    with reporting.progress_bar("Judging") as progress:
        model = candidates.make(workspace, study, trial - 1, who=current_user(), progress=progress)
    after = candidates.sealed_readings(workspace, found.dataset_version_id)
    read = (
        f"The sealed test pictures of this dataset version were read for it, for the {wording.ordinal(after)} time."
        if after > before
        else f"It was judged before; the sealed test pictures of this dataset version were read {after} times so far."
    )
    reporting.answer(
        {"model": model, "sealed_readings": after},
        as_json=as_json,
        text=f"Trial {trial} of study {study} is version {model.version} of '{model.dataset_name}' "
        f"({model.state.value}). {read}",
    )


@command
def compare_two(
    name: Name,
    version: Annotated[int, typer.Argument(help="Version of the model, as `simplenet models` lists it.")],
    against: Annotated[
        int | None, typer.Option(help="Version to compare with; the champion where left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models on the sealed pictures that both were judged by: difference, interval, disagreements."""
    from tuning import predictor
    from tuning.comparison import compare_models

    workspace = reporting.open_workspace()
    model = predictor.chosen_model(workspace, name, version)
    other = (
        predictor.champion(workspace, name)
        if against is None
        else predictor.chosen_model(workspace, name, against)
    )
    with reporting.progress_bar("Scoring") as progress:
        found = compare_models(
            workspace, model, other, on_picture=lambda done, total: progress(done, total, "")
        )
    rows = [
        {
            "image": one.picture.image.name,
            "truth": one.picture.defect_type or "normal",
            "score": one.score,
            "decision": one.decision,
            "other_score": one.other_score,
            "other_decision": one.other_decision,
        }
        for one in found.disagreements
    ]
    sentence = (
        f"Image AUROC of version {version} minus that of version {other.version}: {found.difference:+.3f} "
        f"({found.low:+.3f} to {found.high:+.3f}) on {wording.plural(len(found.pictures), 'sealed test picture')}; "
        f"they disagree on {wording.plural(len(rows), 'picture')}."
    )
    listed = reporting.table(
        ["image", "truth", f"version {version}", f"version {other.version}"],
        [[row["image"], row["truth"], row["decision"], row["other_decision"]] for row in rows],
    )
    reporting.answer(
        {**found.to_json(), "disagreeing": rows},
        as_json=as_json,
        text=f"{sentence}\n{listed}" if rows else sentence,
    )


@command
def export_model(
    name: Name,
    out: Annotated[Path, typer.Option(help="File to write, or a folder for it.")],
    form: Annotated[
        FormatName,
        typer.Option(
            "--format",
            help="onnx: one .onnx file. openvino: a zip of its XML and weights. safetensors: a zip of weights and "
            "JSON.",
        ),
    ] = FormatName.ONNX,
    version: Annotated[int | None, typer.Option(help="Of the model; the champion where left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model as a file for other programs, with a certificate that it decides every picture alike.

    It runs in a process of its own. A file whose certificate fails is withheld, and the reason told.
    """
    import shutil
    import time

    from tuning import jobs, model_exports, predictor
    from tuning.errors import ExportFailed
    from tuning.jobs import JobState

    workspace = reporting.open_workspace()
    model = (
        predictor.champion(workspace, name)
        if version is None
        else predictor.chosen_model(workspace, name, version)
    )
    wanted = model_exports.Format(form.value)
    key = model_exports.job_key(model.id, wanted)
    model_exports.start_export(workspace, model, wanted)
    with reporting.progress_bar("Comparing") as progress:
        while (job := jobs.status(workspace.settings, key)) and job.state is JobState.RUNNING:
            progress(job.done, job.total, job.text)
            time.sleep(0.2)
    found = model_exports.find_export(workspace, model, wanted)
    if job is None or job.state is not JobState.DONE or found is None:
        raise ExportFailed((job and job.error) or "The export was interrupted. Start it again.")
    target = out / found.file.name if out.is_dir() or not out.suffix else out
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found.file, target)
    certificate = found.certificate
    reporting.answer(
        {"file": target, "version": model.version, "certificate": certificate.to_json()},
        as_json=as_json,
        text=f"{target}: version {model.version} of '{name}'. On {certificate.pictures} pictures, scores differ by at "
        f"most {certificate.largest_score_difference:.2g} and {certificate.flipped} decisions. A picture takes "
        f"{certificate.export_p50_ms:.1f} ms (the original {certificate.original_p50_ms:.1f} ms) on "
        f"{certificate.machine}.",
    )
