"""What the pages call a batch, and the addresses that lead from one page to it on another."""

from dashboard.wording import plain
from tuning.batches import Batch

SEPARATOR = " · "


def title(batch: Batch) -> str:
    """What the page Heatmaps calls a batch, in its address too: 'monday.zip · 0123abcd'."""
    return f"{plain(batch.origin)}{SEPARATOR}{batch.id[:8]}"


def on_heatmaps(batch: Batch, picture_id: str | None = None) -> dict[str, str]:
    """Parameters of the address at which a batch is browsed, under the version that scored it."""
    asked = {"dataset": batch.dataset, "model": f"version {batch.model_version}", "of": title(batch)}
    return asked if picture_id is None else {**asked, "image": picture_id}


def on_score(batch: Batch) -> dict[str, str]:
    """Parameters of the address at which a batch has its page."""
    return {"dataset": batch.dataset, "batch": batch.id}
