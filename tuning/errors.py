"""What can go wrong while deciding and driving; every message names the value, the rule and the remedy."""


class TuningError(Exception):
    """Base of every error raised here."""


class BadSpec(TuningError):
    """A study's specification breaks a rule."""


class DatasetTooSmall(TuningError):
    """The pictures do not suffice for what is asked."""


class BadDataset(TuningError):
    """A folder can not become a dataset version."""


class BadPicture(TuningError):
    """One picture or its mask can not be used; the others can."""


class PictureNotFound(TuningError):
    """A dataset version has no picture of this name."""


class AmbiguousPicture(TuningError):
    """A name fits several pictures of a dataset version."""


class ExportFailed(TuningError):
    """A dataset version can not be written to a file."""


class WeightsMissing(TuningError):
    """No backbone's weights are at hand for what should start."""


class BackboneChanged(TuningError):
    """A study would go on with another backbone than it began with."""


class DatasetChanged(TuningError):
    """The pictures of a recorded trial are not here as they were."""


class NotRepeatable(TuningError):
    """A run is of no completed trial, or does not hold what it takes to repeat it."""


class TrialNotFound(TuningError):
    """A study has no trial of this number, or there is no such study."""


class BadComparison(TuningError):
    """What should be compared can not stand side by side."""


class NoWeights(TuningError):
    """A trial's weights are not kept; they can be made again."""


class NoChampion(TuningError):
    """A dataset has no champion yet."""


class NoCompletedTrial(TuningError):
    """A study ended without one completed trial to choose from."""


class TooManyAttempts(TuningError):
    """A study was begun again and again and never came to its end."""


class OutOfMemory(TuningError):
    """Memory ran out, on the device or beside it, however small the batches were made."""


class OutOfRoom(TuningError):
    """The disk has no room for what a study must write; it pauses and can go on later."""


class StudyCancelled(TuningError):
    """Somebody asked for the running study to be cancelled; raised inside the trial to unwind it."""


class StudyPaused(TuningError):
    """Somebody asked for the running study to be paused; raised inside the trial to unwind it."""


class SupervisorError(TuningError):
    """A process of the installation can not be started or does not stay up."""


class JobRunning(TuningError):
    """The same work is being done by another process."""


class JobCancelled(TuningError):
    """Somebody asked for work in the background to stop; raised inside it to unwind it."""


class NotAllowed(TuningError):
    """A page asks for something that only the command line may do, or that a setting must allow first."""
