"""How many requests a dataset got, how many of them failed, and how long the answers took."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 900.0  # quantiles are of the last quarter of an hour
WINDOW_REQUESTS = 2000  # and of no more than so many


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Traffic of one dataset since the server started, and of late."""

    requests: int
    errors: int  # refused or failed, any status from 400 on
    window_seconds: float
    window_requests: int
    window_errors: int
    p50_ms: float | None  # of those that were answered well, from the whole request to the whole answer
    p95_ms: float | None


class Traffic:
    """A rolling window of requests. Used by the server's event loop alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty; `clock` gives seconds."""
        self._clock = clock
        self._requests = 0
        self._errors = 0
        self._recent: deque[tuple[float, float, bool]] = deque(maxlen=WINDOW_REQUESTS)

    def record(self, milliseconds: float, status: int) -> None:
        """Count a request that was answered with an HTTP status."""
        failed = status >= 400
        self._requests += 1
        self._errors += failed
        self._recent.append((self._clock(), milliseconds, failed))

    def summary(self) -> Summary:
        """What is known now."""
        since = self._clock() - WINDOW_SECONDS
        recent = [(taken, failed) for moment, taken, failed in self._recent if moment >= since]
        times = sorted(taken for taken, failed in recent if not failed)
        return Summary(
            requests=self._requests,
            errors=self._errors,
            window_seconds=WINDOW_SECONDS,
            window_requests=len(recent),
            window_errors=sum(failed for _, failed in recent),
            p50_ms=_quantile(times, 0.50),
            p95_ms=_quantile(times, 0.95),
        )


def _quantile(times: list[float], share: float) -> float | None:
    """The smallest of the sorted times that at least this share of them does not exceed."""
    return times[math.ceil(share * len(times)) - 1] if times else None
