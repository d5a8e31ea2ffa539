"""Whether the studies of a dataset may promote their models, or only people."""

from datetime import datetime

from sqlalchemy.orm import Session

from storage.datasets import get_dataset, lock_dataset
from storage.events import record_event
from storage.records import PromotionPolicy, PromotionRule
from storage.schema import PromotionPolicyRow

DEFAULT = PromotionPolicy(rule=PromotionRule.AUTOMATIC, who=None, set_at=None)
POLICY_SET = "set promotions to"  # how the event begins


def promotion_policy(session: Session, dataset_name: str) -> PromotionPolicy:
    """The policy of a dataset.

    Raises:
        DatasetNotFound: there is no such dataset.
    """
    row = session.get(PromotionPolicyRow, get_dataset(session, dataset_name).id, populate_existing=True)
    if row is None:
        return DEFAULT
    return PromotionPolicy(rule=row.rule, who=row.who, set_at=row.set_at)


def set_promotion_policy(
    session: Session, dataset_name: str, rule: PromotionRule, *, who: str, now: datetime
) -> PromotionPolicy:
    """Set the policy of a dataset and record that; the same rule again changes nothing.

    Raises:
        DatasetNotFound, DatasetDeleted: there is no such dataset, or none any more.
    """
    dataset_id = get_dataset(session, dataset_name).id
    lock_dataset(session, dataset_id)
    before = promotion_policy(session, dataset_name)
    if before.rule is rule:
        return before
    session.merge(PromotionPolicyRow(dataset_id=dataset_id, rule=rule, who=who, set_at=now))
    record_event(session, dataset_id, f"{POLICY_SET} {rule.value}", who=who, now=now)
    return PromotionPolicy(rule=rule, who=who, set_at=now)
