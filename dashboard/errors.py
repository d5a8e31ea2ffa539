"""What the dashboard and the command line refuse by themselves; every message names value, rule and remedy."""


class DashboardError(Exception):
    """Base of every error raised here."""


class BadOption(DashboardError):
    """An option of the command line or a field of a form can not be read."""


class WorkersDie(DashboardError):
    """Workers were started for a study and none stayed alive."""


class BadTicket(DashboardError):
    """A request carries no ticket of a page of ours, or one that has run out."""


class NothingThere(DashboardError):
    """An address leads to a file that is not there, or not any more."""


class ForeignPage(DashboardError):
    """A request was sent by a web page of somebody else."""
