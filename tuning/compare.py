"""Trials, studies and models of a dataset side by side: what differs, their figures, and where they disagree.

A trial is named '3.7' (study 3, trial 7), a study 's3', which stands there with its best trial, a model 'v2' (version 2
of its dataset's model). All are compared on validation pictures: the sealed test is not read for a comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from engine.calibration import Calibration
from storage import datasets, models, studies
from storage.records import DatasetVersion, Model, Study
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning import heads, queries
from tuning.errors import BadComparison, TrialNotFound
from tuning.objective import Objective
from tuning.pictures import Picture, study_pictures
from tuning.run_files import MADE_AGAIN, SCORES

LEAST, MOST = 2, 6  # side by side
FIGURES = ("image_auroc", "average_precision", "f1", "pixel_auroc", "aupro", "false_rejects", "escapes")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trial, a study or a model, as it is compared."""

    key: str  # '3.7', 's3' or 'v2'
    title: str  # for people
    version: DatasetVersion
    study: Study
    trial_number: int  # Optuna's, from 0
    run_id: str
    config: Mapping[str, Any]
    objective: str  # the formula of what its study maximised
    value: float | None  # of it
    validation: Mapping[str, Any]  # figures
    test: Mapping[str, Any] | None  # figures on the sealed test, of a model
    curve: Mapping[int, float]  # objective by epoch
    calibration: Calibration  # threshold, and the absolute scale of its heatmaps
    latency_ms: float | None
    model: Model | None  # None: a trial
    best_so_far: Mapping[int, float] = field(
        default_factory=dict
    )  # of a study: highest value by trial, from 1


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting that is not the same for all."""

    name: str
    values: tuple[Any, ...]  # in the order of the subjects


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """How far apart models are on one picture."""

    picture: Picture
    scores: tuple[float, ...]  # in the order of the subjects
    decisions: tuple[str, ...]  # accept, reject
    spread: float  # 0..1: between the highest and the lowest place among all pictures that the models give it

    @property
    def split(self) -> bool:
        """Whether some accept what others reject."""
        return len(set(self.decisions)) > 1


def read_keys(text: str) -> list[str]:
    """'3.7, 3.9, v2' → ['3.7', '3.9', 'v2'], each once."""
    return list(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))


def subjects(workspace: Workspace, dataset_name: str, keys: Sequence[str]) -> list[Subject]:
    """What the keys name, in their order.

    Raises:
        DatasetNotFound: there is no such dataset.
        BadComparison: too few or too many, a key that can't be read, one of another dataset, a trial without figures.
        TrialNotFound, StudyNotFound: there is no such trial or model.
    """
    with workspace.session() as session:
        datasets.get_dataset(session, dataset_name)
    if not LEAST <= len(keys) <= MOST:
        raise BadComparison(
            f"{len(keys)} to compare: {LEAST} to {MOST} trials, studies or models stand side by side. Name for "
            "instance 3.7 (study 3, trial 7), s4 (study 4) and v2 (model version 2)."
        )
    return [_subject(workspace, dataset_name, key) for key in keys]


def differences(compared: Sequence[Subject]) -> list[Difference]:
    """The settings that are not the same for all."""
    rows: dict[str, list[Any]] = {
        "dataset version": [subject.version.number for subject in compared],
        "objective": [subject.objective for subject in compared],
    }
    for name in dict.fromkeys(name for subject in compared for name in subject.config):
        rows[name] = [subject.config.get(name) for subject in compared]
    return [
        Difference(name=name, values=tuple(values))
        for name, values in rows.items()
        if any(str(value) != str(values[0]) for value in values)
    ]


def pictures(workspace: Workspace, compared: Sequence[Subject]) -> list[Picture]:
    """The pictures that are for validation in every version compared, labelled alike; by name."""
    by_version: list[dict[str, Picture]] = []
    for version_id in dict.fromkeys(subject.version.id for subject in compared):
        with workspace.session() as session:
            images = datasets.list_images(session, version_id)
        by_version.append({picture.key: picture for picture in study_pictures(images).validation})
    first, *others = by_version
    shared = [
        picture
        for key, picture in first.items()
        if all(key in other and other[key].anomalous == picture.anomalous for other in others)
    ]
    return sorted(shared, key=lambda picture: (picture.image.name, picture.planted))


def scores(workspace: Workspace, subject: Subject, shown: Sequence[Picture]) -> dict[str, float]:
    """Scores of validation pictures by their key; of a trial as it was recorded, whether or not its weights are kept.

    Raises:
        TrackingError: MLflow can't be reached.
    """
    if subject.model is None:
        kept = Tracking(workspace.settings).read_dict(subject.run_id, SCORES) or {}
        return {picture.key: float(kept[picture.key]) for picture in shown if picture.key in kept}
    from tuning.trial_maps import (
        maps,  # only here: it loads torch, which pages do without as long as they can
    )

    return {picture.key: score for picture, score, _ in maps(workspace, subject, shown)}


def disagreements(
    compared: Sequence[Subject], by_subject: Sequence[Mapping[str, float]], shown: Sequence[Picture]
) -> list[Disagreement]:
    """The pictures that all have a score for, those decided differently first, then by how far apart they are placed.

    Scores of two models lie on two scales; places among the same pictures can be compared.
    """
    common = [picture for picture in shown if all(picture.key in known for known in by_subject)]
    if not common:
        return []
    table = np.array([[known[picture.key] for picture in common] for known in by_subject])
    places = np.array([rankdata(row) for row in table]) / len(common)
    thresholds = [subject.calibration.threshold for subject in compared]
    found = [
        Disagreement(
            picture=picture,
            scores=tuple(table[:, column].tolist()),
            decisions=tuple(
                "reject" if score > threshold else "accept"
                for score, threshold in zip(table[:, column], thresholds, strict=True)
            ),
            spread=float(np.ptp(places[:, column])),
        )
        for column, picture in enumerate(common)
    ]
    return sorted(found, key=lambda one: (not one.split, -one.spread, one.picture.image.name))


def has_weights(workspace: Workspace, subject: Subject) -> bool:
    """Whether heatmaps can be made: a model has its weights, a trial where it is among its study's best."""
    if subject.model is not None:
        return True
    return head_of(workspace, subject) is not None


def weights_note(workspace: Workspace, subject: Subject) -> str | None:
    """What to know of a trial's weights; None where they are those that it ended with."""
    if subject.model is not None:
        return None
    said = Tracking(workspace.settings).tags(subject.run_id).get("weights", "")
    return f"weights {said}" if said.startswith(MADE_AGAIN) and "not equal" in said else None


def mlflow_url(workspace: Workspace, compared: Sequence[Subject]) -> str:
    """Address of the same runs side by side in the MLflow UI."""
    runs = list(dict.fromkeys(subject.run_id for subject in compared))
    return queries.comparison_url(workspace, compared[0].version.dataset_name, runs)


def _subject(workspace: Workspace, dataset_name: str, key: str) -> Subject:
    if key.startswith("v") and key[1:].isdecimal():
        return _model(workspace, dataset_name, int(key[1:]))
    if key.startswith("s") and key[1:].isdecimal():
        return _whole_study(workspace, dataset_name, int(key[1:]))
    study, dot, trial = key.partition(".")
    if not (dot and study.isdecimal() and trial.isdecimal()):
        raise BadComparison(
            f"'{key}' names neither a trial nor a study nor a model. Write 3.7 for trial 7 of study 3, s3 for study "
            "3, v2 for model version 2."
        )
    return _trial(workspace, dataset_name, int(study), int(trial) - 1)


def _whole_study(workspace: Workspace, dataset_name: str, study_id: int) -> Subject:
    """A study by its best trial, and by how it got there."""
    with workspace.session() as session:
        study = studies.get_study(session, study_id)
    best = queries.best_trial(workspace, study)
    if best is None:
        raise BadComparison(
            f"Study {study_id} has no completed trial within its limits, so no best one. Compare it when it has."
        )
    return replace(
        _trial(workspace, dataset_name, study_id, best.number),
        key=f"s{study_id}",
        title=f"Study {study_id}, its best trial ({best.number + 1})",
        best_so_far=queries.best_so_far(workspace, study),
    )


def _trial(workspace: Workspace, dataset_name: str, study_id: int, number: int) -> Subject:
    with workspace.session() as session:
        study = studies.get_study(session, study_id)
        version = datasets.get_version(session, study.dataset_version_id)
    if study.dataset_name != dataset_name:
        raise BadComparison(
            f"Study {study_id} is of dataset '{study.dataset_name}', not of '{dataset_name}': other pictures. Compare "
            "trials of one dataset."
        )
    trials = {trial.number: trial for trial in queries.study_trials(workspace, study)}
    trial = trials.get(number)
    if trial is None:
        raise TrialNotFound(f"Study {study_id} has no trial {number + 1}. Choose one from its table.")
    if not trial.figures or not trial.calibration or trial.run_id is None:
        raise BadComparison(
            f"Trial {number + 1} of study {study_id} is {trial.state} and has no figures. Choose trials that completed."
        )
    return Subject(
        key=f"{study_id}.{number + 1}",
        title=f"Study {study_id}, trial {number + 1}",
        version=version,
        study=study,
        trial_number=number,
        run_id=trial.run_id,
        config=trial.config,
        objective=_formula(study),
        value=trial.value,
        validation=trial.figures,
        test=None,
        curve=trial.intermediate,
        calibration=Calibration.from_json(trial.calibration),
        latency_ms=trial.latency_ms,
        model=None,
    )


def _model(workspace: Workspace, dataset_name: str, number: int) -> Subject:
    with workspace.session() as session:
        known = {model.version: model for model in models.list_models(session, dataset_name)}
        model = known.get(number)
        if model is None:
            have = ", ".join(f"v{version}" for version in sorted(known)) or "none"
            raise TrialNotFound(f"Dataset '{dataset_name}' has no model v{number}. It has {have}.")
        study = studies.get_study(session, model.study_id)
        version = datasets.get_version(session, model.dataset_version_id)
    trials = {trial.number: trial for trial in queries.study_trials(workspace, study)}
    trial = trials.get(model.trial_number)
    return Subject(
        key=f"v{number}",
        title=f"Model version {number}",
        version=version,
        study=study,
        trial_number=model.trial_number,
        run_id=model.run_id,
        config=model.config,
        objective=_formula(study),
        value=model.figures["objective_value"],
        validation=model.figures["validation"],
        test=model.figures.get("test"),
        curve=trial.intermediate if trial else {},
        calibration=Calibration.from_json(model.figures["calibration"]),
        latency_ms=trial.latency_ms if trial else None,
        model=model,
    )


def _formula(study: Study) -> str:
    return Objective.of(study.spec["objective"]).formula


def head_of(workspace: Workspace, subject: Subject) -> Path | None:
    """The folder of a trial's head, fetched where only its run has it; None where it is not kept."""
    return heads.find(
        workspace,
        Tracking(workspace.settings),
        study_id=subject.study.id,
        number=subject.trial_number,
        run_id=subject.run_id,
    )
