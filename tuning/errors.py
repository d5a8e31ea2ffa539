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


class UnableHere(TuningError):
    """A worker can't go on with a study that began well on another machine; others may."""


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


class OtherBatch(TuningError):
    """A folder holds the results of other pictures, or of another model."""


class BatchNotFound(TuningError):
    """No batch has this id, or none any more."""


class BatchBusy(TuningError):
    """A batch is being scored and can't be deleted."""


class NoPictures(TuningError):
    """There is no picture in what should be scored."""


class NothingToCompare(TuningError):
    """Two models have no sealed pictures in common that could tell which is better."""


class NotCompleted(TuningError):
    """A trial has not come to its end, or not to a good one, and can not become a candidate."""


class NoFormerChampion(TuningError):
    """A dataset had no other champion to go back to."""


class NoChampion(TuningError):
    """A dataset has no champion yet."""


class BadOperatingPoint(TuningError):
    """A threshold can't be set as asked."""


class NoCompletedTrial(TuningError):
    """A study ended without one completed trial to choose from."""


class AlwaysFails(TuningError):
    """Trial after trial of a study fails in the same way, and none has completed."""


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


class BadPlacement(TuningError):
    """Workers can not be placed on a cluster as asked."""


class ClusterUnavailable(TuningError):
    """The Ray cluster that workers should run on can not be reached, or Ray is not installed."""


class JobRunning(TuningError):
    """The same work is being done by another process."""


class JobCancelled(TuningError):
    """Somebody asked for work in the background to stop; raised inside it to unwind it."""


class NotAllowed(TuningError):
    """A page asks for something that only the command line may do, or that a setting must allow first."""


class NotJoined(TuningError):
    """A worker was given the database of an installation, and not the rest of what its machines share."""


class ServingRefused(TuningError):
    """The model server may not start as the settings want it: open to other machines, and no key to ask for."""


class Overloaded(TuningError):
    """More requests wait than the model server keeps; the same request may be sent again a little later."""


class RequestTooLarge(TuningError):
    """A request has more bytes than the model server takes."""


class BadRequest(TuningError):
    """A request to the model server is not understood."""


class NotServed(TuningError):
    """The model server serves another version than the one that was asked for."""
