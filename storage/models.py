"""Trained models, who is champion, how it came to be, and every look at sealed test images.

Every function works in the session it is given and leaves committing to it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.datasets import get_version, lock_dataset
from storage.errors import AlreadyChampion, ChampionChanged, ModelNotFound, NotChampion
from storage.records import Model, ModelState, Promotion, SealedReading
from storage.schema import DatasetRow, ModelRow, PromotionRow, SealedReadingRow
from storage.studies import get_study

_FRESH = {"populate_existing": True}  # what other processes committed since this session last looked


def create_model(
    session: Session,
    *,
    dataset_version_id: int,
    study_id: int,
    trial_number: int,
    run_id: str,
    version: int,
    config: Mapping[str, Any],
    figures: Mapping[str, Any],
    now: datetime,
) -> Model:
    """Add a candidate.

    Args:
        version: MLflow's number of it under the dataset's registered model; each number can be added once.
        config: the SimpleNetConfig it was trained with, as JSON.
        figures: figures of merit, as JSON (no NaN).
    Raises:
        VersionNotFound, StudyNotFound: there is no such dataset version or study.
    """
    get_study(session, study_id)
    row = ModelRow(
        dataset_id=get_version(session, dataset_version_id).dataset_id,
        dataset_version_id=dataset_version_id,
        study_id=study_id,
        trial_number=trial_number,
        run_id=run_id,
        version=version,
        state=ModelState.CANDIDATE,
        config=dict(config),
        figures=dict(figures),
        created_at=now,
    )
    session.add(row)
    session.flush()
    return _model(row)


def get_model(session: Session, model_id: int) -> Model:
    """The model of this id.

    Raises:
        ModelNotFound: there is none.
    """
    return _model(_model_row(session, model_id))


def list_models(session: Session, dataset_name: str | None = None) -> list[Model]:
    """All models, or those of a dataset; the newest first."""
    query = select(ModelRow).order_by(ModelRow.id.desc())
    if dataset_name is not None:
        query = query.join(ModelRow.dataset).where(DatasetRow.name == dataset_name)
    return [_model(row) for row in session.scalars(query, execution_options=_FRESH)]


def champion(session: Session, dataset_name: str) -> Model | None:
    """The model of a dataset that serves, if any."""
    row = session.scalar(
        select(ModelRow)
        .join(ModelRow.dataset)
        .where(DatasetRow.name == dataset_name, ModelRow.state == ModelState.CHAMPION),
        execution_options=_FRESH,
    )
    return None if row is None else _model(row)


def numbered_model(session: Session, dataset_name: str, version: int) -> Model:
    """The model of a dataset that MLflow numbers so.

    Raises:
        ModelNotFound: there is none.
    """
    row = session.scalar(
        select(ModelRow)
        .join(ModelRow.dataset)
        .where(DatasetRow.name == dataset_name, ModelRow.version == version),
        execution_options=_FRESH,
    )
    if row is None:
        raise ModelNotFound(
            f"Dataset '{dataset_name}' has no model version {version}. Take one from the list of models."
        )
    return _model(row)


def promote(
    session: Session,
    *,
    model_id: int,
    who: str,
    why: str,
    figures: Mapping[str, Any] | None = None,
    now: datetime,
) -> Promotion:
    """Make a model the champion of its dataset, retire the champion it had, and record it.

    A model that served before can be promoted again: that is a rollback.

    Args:
        who: the person or policy that decides.
        why: in words.
        figures: what it was worth, and what it replaced, as JSON (no NaN).
    Raises:
        ModelNotFound: there is no such model.
        DatasetDeleted: its dataset was deleted.
        AlreadyChampion: it serves already.
    """
    dataset_id = _model_row(session, model_id).dataset_id
    lock_dataset(session, dataset_id)
    model = _model_row(session, model_id)
    if model.state is ModelState.CHAMPION:
        raise AlreadyChampion(
            f"Model {model.version} of dataset '{model.dataset.name}' is its champion already. Promote another one."
        )
    replaced = session.scalar(
        select(ModelRow).where(ModelRow.dataset_id == dataset_id, ModelRow.state == ModelState.CHAMPION),
        execution_options=_FRESH,
    )
    if replaced is not None:
        replaced.state = ModelState.RETIRED
        session.flush()  # before the new one rises: at no moment there may be two
    model.state = ModelState.CHAMPION
    model.promoted_at = now
    row = PromotionRow(
        dataset_id=dataset_id,
        model_id=model_id,
        replaced_model_id=None if replaced is None else replaced.id,
        who=who,
        why=why,
        figures=None if figures is None else dict(figures),
        created_at=now,
    )
    session.add(row)
    session.flush()
    return _promotion(row)


def promote_instead_of(
    session: Session,
    *,
    model_id: int,
    reigning_id: int | None,
    who: str,
    why: str,
    figures: Mapping[str, Any] | None = None,
    now: datetime,
) -> Promotion:
    """As `promote`, if the champion is still the one that the model was compared with.

    Of two that decide at once, one waits for the other here and then finds another champion.

    Args:
        reigning_id: of that champion; None where there was none.
    Raises:
        ChampionChanged: another one serves by now, or none.
        ModelNotFound, DatasetDeleted, AlreadyChampion: as `promote`.
    """
    row = _model_row(session, model_id)
    lock_dataset(session, row.dataset_id)
    serving = champion(session, row.dataset.name)
    if (None if serving is None else serving.id) != reigning_id:
        by_now = "no champion" if serving is None else f"version {serving.version} as champion"
        raise ChampionChanged(
            f"Dataset '{row.dataset.name}' has {by_now} by now; model {row.version} was not compared with that. "
            "Compare again."
        )
    return promote(session, model_id=model_id, who=who, why=why, figures=figures, now=now)


def previous_champion(session: Session, dataset_name: str) -> Model | None:
    """The model that served before the present champion, or last where none serves; None where there was none."""
    serving = champion(session, dataset_name)
    for promotion in list_promotions(session, dataset_name):
        if serving is None or promotion.model_id != serving.id:
            return get_model(session, promotion.model_id)
    return None


def retire(session: Session, *, model_id: int) -> Model:
    """Take a champion out of service, so that its dataset has none; it can be promoted again.

    Raises:
        ModelNotFound: there is no such model.
        NotChampion: it doesn't serve.
    """
    lock_dataset(session, _model_row(session, model_id).dataset_id)
    row = _model_row(session, model_id)
    if row.state is not ModelState.CHAMPION:
        raise NotChampion(
            f"Model {row.version} of dataset '{row.dataset.name}' is no champion but {row.state.value}; only a "
            "champion can be withdrawn. Look at the list of models."
        )
    row.state = ModelState.RETIRED
    session.flush()
    return _model(row)


def list_promotions(session: Session, dataset_name: str | None = None) -> list[Promotion]:
    """All promotions, or those of a dataset; the newest first."""
    query = select(PromotionRow).order_by(PromotionRow.id.desc())
    if dataset_name is not None:
        query = query.join(PromotionRow.dataset).where(DatasetRow.name == dataset_name)
    return [_promotion(row) for row in session.scalars(query)]


def record_test_reading(
    session: Session,
    *,
    dataset_version_id: int,
    study_id: int,
    trial_number: int,
    run_id: str | None = None,
    figures: Mapping[str, Any],
    now: datetime,
) -> SealedReading:
    """Record that the sealed test images of a version were scored, and what came out.

    Raises:
        VersionNotFound, StudyNotFound: there is no such dataset version or study.
    """
    get_version(session, dataset_version_id)
    get_study(session, study_id)
    row = SealedReadingRow(
        dataset_version_id=dataset_version_id,
        study_id=study_id,
        trial_number=trial_number,
        run_id=run_id,
        figures=dict(figures),
        created_at=now,
    )
    session.add(row)
    session.flush()
    return _reading(row)


def list_test_readings(
    session: Session, *, dataset_version_id: int | None = None, study_id: int | None = None
) -> list[SealedReading]:
    """All readings of sealed test images, or those of a version or a study; the newest first."""
    query = select(SealedReadingRow).order_by(SealedReadingRow.id.desc())
    if dataset_version_id is not None:
        query = query.where(SealedReadingRow.dataset_version_id == dataset_version_id)
    if study_id is not None:
        query = query.where(SealedReadingRow.study_id == study_id)
    return [_reading(row) for row in session.scalars(query)]


def _model_row(session: Session, model_id: int) -> ModelRow:
    row = session.get(ModelRow, model_id, populate_existing=True)
    if row is None:
        raise ModelNotFound(f"There is no model with id {model_id}. Take one from the list of models.")
    return row


def _model(row: ModelRow) -> Model:
    return Model(
        id=row.id,
        dataset_name=row.dataset.name,
        dataset_version_id=row.dataset_version_id,
        study_id=row.study_id,
        trial_number=row.trial_number,
        run_id=row.run_id,
        version=row.version,
        state=row.state,
        config=row.config,
        figures=row.figures,
        created_at=row.created_at,
        promoted_at=row.promoted_at,
    )


def _promotion(row: PromotionRow) -> Promotion:
    return Promotion(
        id=row.id,
        model_id=row.model_id,
        dataset_name=row.dataset.name,
        who=row.who,
        why=row.why,
        created_at=row.created_at,
        replaced_model_id=row.replaced_model_id,
        figures=row.figures,
    )


def _reading(row: SealedReadingRow) -> SealedReading:
    return SealedReading(
        id=row.id,
        dataset_name=row.version.dataset.name,
        dataset_version_id=row.dataset_version_id,
        study_id=row.study_id,
        trial_number=row.trial_number,
        run_id=row.run_id,
        figures=row.figures,
        created_at=row.created_at,
    )
