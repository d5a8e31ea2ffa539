"""How a dataset's champions came and went: who, when, why, and what the figures were."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import wording
from dashboard.results import interval
from dashboard.session import workspace
from storage import events, models
from storage.policies import POLICY_SET
from storage.records import Model, Promotion
from tuning.commands import MADE_CANDIDATE, WITHDREW


def show(name: str, found: Sequence[Model]) -> None:
    """Draw promotions, withdrawals, changes of the policy and candidates, the newest first."""
    with workspace().session() as session:
        promotions = models.list_promotions(session, name)
        told = events.list_events(session, name)
    versions = {model.id: model.version for model in found}
    rows = [
        {
            "when": promotion.created_at,
            "what": _what(promotion, versions),
            "who": promotion.who,
            "why": promotion.why,
            "figures": _figures(promotion.figures),
        }
        for promotion in promotions
    ]
    rows += [
        {"when": event.created_at, "what": event.what, "who": event.who, "why": "", "figures": ""}
        for event in told
        if event.what.startswith((WITHDREW, POLICY_SET, MADE_CANDIDATE))
    ]
    if not rows:
        return
    rows.sort(key=lambda row: row["when"], reverse=True)
    st.subheader("History")
    shown = [{**row, "when": wording.moment(row["when"])} for row in rows]
    st.dataframe(pd.DataFrame(shown), hide_index=True)


def _what(promotion: Promotion, versions: Mapping[int, int]) -> str:
    replaced = versions.get(promotion.replaced_model_id or -1)
    instead = f" instead of {replaced}" if replaced is not None else ""
    return f"version {versions.get(promotion.model_id, '–')} promoted{instead}"


def _figures(figures: Mapping[str, Any] | None) -> str:
    """'0.963 (0.931–0.988) after 0.951 (0.917–0.980); difference +0.012 (−0.004 to +0.030)'."""
    if figures is None:
        return ""
    texts = []
    for which in ("promoted", "replaced"):
        test = (figures.get(which) or {}).get("test")
        if test:
            texts.append(wording.with_interval(test["image_auroc"], interval(test, "image_auroc")))
    comparison = figures.get("comparison")
    difference = (
        f"; difference {comparison['difference']:+.3f} ({comparison['low']:+.3f} to {comparison['high']:+.3f})"
        if comparison
        else ""
    )
    return " after ".join(texts) + difference
