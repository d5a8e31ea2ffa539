from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from storage import models
from storage.database import session
from storage.errors import (
    AlreadyChampion,
    ChampionChanged,
    ModelNotFound,
    NotChampion,
    StudyNotFound,
    VersionNotFound,
)
from storage.records import Model, ModelState, Promotion, Study

START = datetime(2030, 1, 1, 12, tzinfo=UTC)

MakeModel = Callable[..., Model]


@pytest.fixture
def make_model(engine: Engine, make_study: Callable[..., Study]) -> MakeModel:
    """Commits a candidate: `make_model("plates", version=2)`."""

    def make(dataset: str = "plates", **changes: Any) -> Model:
        study = make_study(dataset)
        values: dict[str, Any] = {
            "dataset_version_id": study.dataset_version_id,
            "study_id": study.id,
            "trial_number": 3,
            "run_id": "abc",
            "version": 1,
            "config": {"noise_std": 0.015},
            "figures": {"test": {"image_auroc": 0.9}, "comparison": None},
            "now": START,
        }
        with session(engine) as opened:
            return models.create_model(opened, **values | changes)

    return make


def promote(engine: Engine, model: Model, hours: float = 0) -> Promotion:
    with session(engine) as opened:
        return models.promote(
            opened, model_id=model.id, who="ada", why="better", now=START + timedelta(hours=hours)
        )


def states(engine: Engine, dataset: str = "plates") -> dict[int, ModelState]:
    with session(engine) as opened:
        return {model.version: model.state for model in models.list_models(opened, dataset)}


def test_new_model_is_a_candidate(engine: Engine, make_model: MakeModel) -> None:
    model = make_model(version=7)
    assert model == Model(
        id=model.id,
        dataset_name="plates",
        dataset_version_id=model.dataset_version_id,
        study_id=model.study_id,
        trial_number=3,
        run_id="abc",
        version=7,
        state=ModelState.CANDIDATE,
        config={"noise_std": 0.015},
        figures={"test": {"image_auroc": 0.9}, "comparison": None},
        created_at=START,
        promoted_at=None,
    )
    with session(engine) as opened:
        assert models.get_model(opened, model.id) == model
        assert models.champion(opened, "plates") is None


def test_models_are_listed_newest_first_and_by_dataset(engine: Engine, make_model: MakeModel) -> None:
    first, second, third = make_model("plates"), make_model("screws"), make_model("plates", version=2)
    with session(engine) as opened:
        assert models.list_models(opened) == [third, second, first]
        assert models.list_models(opened, "plates") == [third, first]


def test_version_number_is_taken_once_per_dataset(engine: Engine, make_model: MakeModel) -> None:
    make_model("plates", version=1)
    make_model("screws", version=1)
    with pytest.raises(IntegrityError):
        make_model("plates", version=1)


def test_first_promotion_makes_a_champion_and_is_recorded(engine: Engine, make_model: MakeModel) -> None:
    model = make_model()
    promotion = promote(engine, model, hours=1)
    assert promotion == Promotion(
        id=promotion.id,
        model_id=model.id,
        dataset_name="plates",
        who="ada",
        why="better",
        created_at=START + timedelta(hours=1),
        replaced_model_id=None,
        figures=None,
    )
    with session(engine) as opened:
        assert models.champion(opened, "plates") == replace(
            model, state=ModelState.CHAMPION, promoted_at=START + timedelta(hours=1)
        )
        assert models.champion(opened, "screws") is None


def test_promotion_retires_the_champion_of_the_same_dataset_only(
    engine: Engine, make_model: MakeModel
) -> None:
    old, new, other = make_model(version=1), make_model(version=2), make_model("screws")
    promote(engine, other)
    promote(engine, old)
    assert promote(engine, new).replaced_model_id == old.id
    assert states(engine) == {1: ModelState.RETIRED, 2: ModelState.CHAMPION}
    assert states(engine, "screws") == {1: ModelState.CHAMPION}


def test_retired_champion_can_be_promoted_again(engine: Engine, make_model: MakeModel) -> None:
    old, new = make_model(version=1), make_model(version=2)
    promotions = [promote(engine, model, hours) for hours, model in enumerate((old, new, old))]
    assert states(engine) == {1: ModelState.CHAMPION, 2: ModelState.RETIRED}
    with session(engine) as opened:
        assert models.list_promotions(opened, "plates") == promotions[::-1]
        assert models.list_promotions(opened) == promotions[::-1]
        assert models.list_promotions(opened, "screws") == []
        assert models.get_model(opened, old.id).promoted_at == START + timedelta(hours=2)


def test_retired_champion_leaves_none_and_can_be_promoted_again(
    engine: Engine, make_model: MakeModel
) -> None:
    model, other = make_model("plates"), make_model("screws")
    promote(engine, model)
    promote(engine, other)
    with session(engine) as opened:
        retired = models.retire(opened, model_id=model.id)
    assert retired == replace(model, state=ModelState.RETIRED, promoted_at=START)
    with session(engine) as opened:
        assert models.champion(opened, "plates") is None
    assert states(engine, "screws") == {1: ModelState.CHAMPION}
    assert promote(engine, model, hours=1).replaced_model_id is None
    assert states(engine) == {1: ModelState.CHAMPION}


def test_only_a_champion_is_retired(engine: Engine, make_model: MakeModel) -> None:
    candidate, retired = make_model(version=1), make_model(version=2)
    promote(engine, retired)
    for state in ("candidate", "retired"):
        model = {"candidate": candidate, "retired": retired}[state]
        if state == "retired":
            with session(engine) as opened:
                models.retire(opened, model_id=model.id)
        with pytest.raises(NotChampion, match=f"is no champion but {state}"), session(engine) as opened:
            models.retire(opened, model_id=model.id)
    with pytest.raises(ModelNotFound), session(engine) as opened:
        models.retire(opened, model_id=404)


def test_champion_is_not_promoted_twice(engine: Engine, make_model: MakeModel) -> None:
    model = make_model()
    promote(engine, model)
    with pytest.raises(AlreadyChampion, match="Model 1 of dataset 'plates'"):
        promote(engine, model)


def test_promotion_that_is_rolled_back_leaves_the_old_champion(engine: Engine, make_model: MakeModel) -> None:
    old, new = make_model(version=1), make_model(version=2)
    promote(engine, old)

    def interrupted() -> None:
        with session(engine) as opened:
            models.promote(opened, model_id=new.id, who="ada", why="better", now=START)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert states(engine) == {1: ModelState.CHAMPION, 2: ModelState.CANDIDATE}
    with session(engine) as opened:
        assert len(models.list_promotions(opened)) == 1


def test_database_itself_refuses_a_second_champion(engine: Engine, make_model: MakeModel) -> None:
    promote(engine, make_model(version=1))
    second = make_model(version=2)
    with pytest.raises(IntegrityError), session(engine) as opened:
        opened.execute(
            text("UPDATE models SET state = 'champion', promoted_at = created_at WHERE id = :id"),
            {"id": second.id},
        )


def test_promotions_at_the_same_time_leave_one_champion_and_an_unbroken_history(
    engine: Engine, make_model: MakeModel
) -> None:
    candidates = [make_model(version=number) for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda model: promote(engine, model), candidates))
    assert sorted(states(engine).values()) == [ModelState.CHAMPION] + [ModelState.RETIRED] * 7
    with session(engine) as opened:
        history = models.list_promotions(opened)[::-1]
    assert [promotion.replaced_model_id for promotion in history] == [
        None,
        *(promotion.model_id for promotion in history[:-1]),
    ]


def test_every_reading_of_the_sealed_test_is_recorded(
    engine: Engine, make_study: Callable[..., Study]
) -> None:
    study, other = make_study("plates"), make_study("screws")
    with session(engine) as opened:
        readings = [
            models.record_test_reading(
                opened,
                dataset_version_id=one.dataset_version_id,
                study_id=one.id,
                trial_number=number,
                run_id=run_id,
                figures={"image_auroc": 0.9},
                now=START,
            )
            for number, (one, run_id) in enumerate([(study, "abc"), (study, None), (other, "def")])
        ]
    assert (readings[0].dataset_name, readings[0].run_id, readings[1].run_id) == ("plates", "abc", None)
    with session(engine) as opened:
        assert models.list_test_readings(opened) == readings[::-1]
        assert models.list_test_readings(opened, study_id=study.id) == [readings[1], readings[0]]
        assert models.list_test_readings(opened, dataset_version_id=other.dataset_version_id) == [readings[2]]


def test_unknown_ids_are_refused(engine: Engine, make_model: MakeModel) -> None:
    with pytest.raises(VersionNotFound):
        make_model(dataset_version_id=404)
    with pytest.raises(StudyNotFound):
        make_model(study_id=404)
    with session(engine) as opened:
        with pytest.raises(ModelNotFound, match="404"):
            models.get_model(opened, 404)
        with pytest.raises(ModelNotFound, match="404"):
            models.promote(opened, model_id=404, who="ada", why="", now=START)
        with pytest.raises(StudyNotFound, match="404"):
            models.record_test_reading(
                opened,
                dataset_version_id=make_model().dataset_version_id,
                study_id=404,
                trial_number=0,
                figures={},
                now=START,
            )


def promote_over(engine: Engine, model: Model, reigning: Model | None) -> Promotion:
    with session(engine) as opened:
        return models.promote_instead_of(
            opened,
            model_id=model.id,
            reigning_id=None if reigning is None else reigning.id,
            who="study policy",
            why="better",
            figures={"comparison": None},
            now=START,
        )


def test_model_replaces_only_the_champion_that_it_was_compared_with(
    engine: Engine, make_model: MakeModel
) -> None:
    first, second, third = (make_model(version=number) for number in (1, 2, 3))
    promotion = promote_over(engine, first, None)
    assert promotion.figures == {"comparison": None}
    with pytest.raises(ChampionChanged, match="has version 1 as champion by now; model 2 was not compared"):
        promote_over(engine, second, None)
    promote_over(engine, second, first)
    with pytest.raises(ChampionChanged, match="version 2 as champion"):
        promote_over(engine, third, first)
    with session(engine) as opened:
        models.retire(opened, model_id=second.id)
    with pytest.raises(ChampionChanged, match="no champion by now"):
        promote_over(engine, third, second)
    assert states(engine) == {
        1: ModelState.RETIRED,
        2: ModelState.RETIRED,
        3: ModelState.CANDIDATE,
    }


def test_of_two_that_decide_at_once_one_must_compare_again(engine: Engine, make_model: MakeModel) -> None:
    rivals = [make_model(version=number) for number in range(1, 5)]

    def attempt(model: Model) -> bool:
        try:
            promote_over(engine, model, None)
        except ChampionChanged:
            return False
        return True

    with ThreadPoolExecutor(len(rivals)) as threads:
        assert sorted(threads.map(attempt, rivals)) == [False, False, False, True]
    assert list(states(engine).values()).count(ModelState.CHAMPION) == 1


def test_champion_before_the_present_one(engine: Engine, make_model: MakeModel) -> None:
    def previous() -> int | None:
        with session(engine) as opened:
            found = models.previous_champion(opened, "plates")
        return None if found is None else found.version

    first, second = make_model(version=1), make_model(version=2)
    assert previous() is None
    promote(engine, first)
    assert previous() is None
    promote(engine, second)
    assert previous() == 1
    promote(engine, first)
    assert previous() == 2
    with session(engine) as opened:
        models.retire(opened, model_id=first.id)
    assert previous() == 1  # withdrawn, nobody serves: the last that did
