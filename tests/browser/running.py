"""Real servers and real windows for browser tests."""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parents[2]
START_SECONDS = 120
PAGE_MS = 60_000


@contextmanager
def running(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    *answering: str,
    stopped_by: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while the context lasts, once all addresses in `answering` answer.

    Args:
        environment: what it finds in its environment beside ours.
        log: what it says.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            arguments,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        for url in answering:
            wait_for(url, process, log)
        yield process
    finally:
        process.send_signal(stopped_by)
        process.wait(timeout=60)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server that is being started answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{url} does not answer: {log.read_text()}")


@contextmanager
def window(
    browser: Browser,
    address: str,
    *,
    width: int = 1400,
    height: int = 1000,
    patience_ms: int = PAGE_MS,
    **options: Any,
) -> Iterator[Page]:
    """A new window; a script error in it fails the test.

    Args:
        address: what paths are relative to.
        patience_ms: how long is waited for whatever is expected.
        options: of Playwright's `new_context`.
    """
    errors: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": height}, base_url=address, **options)
    opened = context.new_page()
    opened.set_default_timeout(patience_ms)
    expect.set_options(timeout=patience_ms)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert errors == []
