from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from storage import datasets, events
from storage.database import session
from storage.errors import DatasetDeleted, DatasetNotFound
from storage.policies import DEFAULT, promotion_policy, set_promotion_policy
from storage.records import PromotionPolicy, PromotionRule, Study

START = datetime(2030, 1, 1, 12, tzinfo=UTC)


def test_policy_is_automatic_until_somebody_sets_it(engine: Engine, make_study: Callable[..., Study]) -> None:
    make_study("plates")
    with session(engine) as opened:
        assert promotion_policy(opened, "plates") == DEFAULT
        set_promotion_policy(opened, "plates", PromotionRule.MANUAL, who="ada", now=START)
    with session(engine) as opened:
        assert promotion_policy(opened, "plates") == PromotionPolicy(
            rule=PromotionRule.MANUAL, who="ada", set_at=START
        )
        told = [(event.who, event.what) for event in events.list_events(opened, "plates")]
    assert told == [("ada", "set promotions to manual")]


def test_the_same_policy_again_changes_nothing(engine: Engine, make_study: Callable[..., Study]) -> None:
    make_study("plates")
    with session(engine) as opened:
        assert (
            set_promotion_policy(opened, "plates", PromotionRule.AUTOMATIC, who="ada", now=START) == DEFAULT
        )
        set_promotion_policy(opened, "plates", PromotionRule.MANUAL, who="ada", now=START)
        set_promotion_policy(opened, "plates", PromotionRule.MANUAL, who="bob", now=START)
        assert promotion_policy(opened, "plates").who == "ada"
        assert len(events.list_events(opened, "plates")) == 1


def test_policy_needs_a_dataset_that_is_there(engine: Engine, make_study: Callable[..., Study]) -> None:
    study = make_study("plates")
    with session(engine) as opened, pytest.raises(DatasetNotFound, match="Did you mean 'plates'"):
        set_promotion_policy(opened, "plate", PromotionRule.MANUAL, who="ada", now=START)
    from storage.records import Wanted
    from storage.studies import set_wanted

    with session(engine) as opened:
        set_wanted(opened, study.id, Wanted.CANCEL, START)
        datasets.delete_dataset(opened, "plates", now=START)
    with session(engine) as opened, pytest.raises(DatasetDeleted):
        set_promotion_policy(opened, "plates", PromotionRule.MANUAL, who="ada", now=START)
