"""Counting requests: what the figures are of."""

import pytest

from tuning.serving.traffic import WINDOW_REQUESTS, WINDOW_SECONDS, Traffic


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def traffic(clock):
    return Traffic(clock)


def test_nothing_has_no_latency(traffic):
    summary = traffic.summary()
    assert (summary.requests, summary.errors, summary.p50_ms, summary.p95_ms) == (0, 0, None, None)


def test_quantiles_are_of_the_answers(traffic):
    for number in range(100, 0, -1):
        traffic.record(float(number), 200)
    traffic.record(9999.0, 503)  # an error is quick or slow for reasons of its own
    summary = traffic.summary()
    assert (summary.p50_ms, summary.p95_ms) == (50.0, 95.0)
    assert (summary.requests, summary.errors) == (101, 1)


def test_one_answer_is_both_quantiles(traffic):
    traffic.record(7.0, 200)
    assert (traffic.summary().p50_ms, traffic.summary().p95_ms) == (7.0, 7.0)


def test_old_requests_leave_the_window_but_not_the_count(traffic, clock):
    traffic.record(1.0, 200)
    traffic.record(1.0, 422)
    clock.now = WINDOW_SECONDS + 1
    traffic.record(5.0, 200)
    summary = traffic.summary()
    assert (summary.requests, summary.errors) == (3, 1)
    assert (summary.window_requests, summary.window_errors, summary.p50_ms) == (1, 0, 5.0)


def test_window_is_bounded(traffic):
    for _ in range(2 * WINDOW_REQUESTS):
        traffic.record(1.0, 200)
    assert traffic.summary().window_requests == WINDOW_REQUESTS
    assert traffic.summary().requests == 2 * WINDOW_REQUESTS
