"""Training a trial again in the background, as pages ask for it; `tuning.reproduce` does it."""

from storage.settings import Settings
from tuning import jobs

PREFIX = "reproduce-"


def job_key(run_id: str) -> str:
    """Key of the job that trains a run's trial again; see `tuning.jobs`."""
    return f"{PREFIX}{run_id}"


def start(settings: Settings, run_id: str) -> jobs.Job:
    """Train a run's trial again as a process of its own, and keep its head in the run."""
    return jobs.start(settings, job_key(run_id), "tuning.reproduce", [run_id])
