"""Telling dead holders from live ones without comparing clocks.

Whoever holds a study's lease or one of its trials raises a counter at every heartbeat. A watcher calls a holder
silent when it has seen the same counter for the length of a lease *by its own monotonic clock*, and takes what the
holder had by a statement that names the counter it saw. Nobody's clock of the day matters: one that is moved, or goes
wrong, neither frees what is alive nor keeps what is dead.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A sign of life: equal ones, seen twice, mean that nothing was heard in between."""

    kind: str  # "study" or "slot"
    id: int
    attempt: int
    beats: int


class Watch:
    """What one process has seen of all holders. May be shared by its threads."""

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing was seen yet, so nobody counts as silent before a whole lease from now.

        Args:
            clock: seconds that only grow; no clock of the day.
        """
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._silent_seconds: dict[Beat, float] = {}
        self._looked_at = clock()
        self._lock = threading.Lock()

    def see(self, beats: Iterable[Beat]) -> None:
        """Take note of all that hold anything now."""
        with self._lock:
            moment = self._clock()
            # While nobody looked (a stopped process, a database out of reach) holders may have been unable to beat,
            # too: a long gap counts as a quarter of a lease at most.
            passed = min(moment - self._looked_at, self._lease_seconds / 4)
            self._looked_at = moment
            before = self._silent_seconds
            self._silent_seconds = {beat: before[beat] + passed if beat in before else 0.0 for beat in beats}

    def silent(self, kind: str) -> list[Beat]:
        """Holders of a kind that were not heard of for a lease."""
        with self._lock:
            return [
                beat
                for beat, seconds in self._silent_seconds.items()
                if beat.kind == kind and seconds > self._lease_seconds
            ]
