"""Uploads through a real Chromium: what people see, and that the bytes arrive whatever happens on the way."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, CDPSession, Page, expect

from benchmarks.serving import free_port
from dashboard.server import command
from storage import staging
from storage.settings import Settings
from storage.staging import Upload
from tests.browser.running import wait_for, window

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGE_MS = 30_000
expect.set_options(timeout=PAGE_MS)
SLOW = 4_000_000  # bytes per second, so that something can happen meanwhile

# The component beside the routes, and a second page to look at meanwhile.
SCRIPT = """
import streamlit as st
from dashboard.components.uploader import uploader
from storage import staging
from storage.settings import Settings

def add():
    settings = Settings()
    done = uploader(settings, key="new", dataset="plates")
    if done:
        st.write(f"completed: {len(staging.find(settings.staging_folder, done).files)}")
        if st.button("Discard it"):
            staging.discard(settings.staging_folder, done)
            st.rerun()

def other():
    st.write("something else")

st.navigation([st.Page(add, title="Add", url_path="add", default=True), st.Page(other, title="Other")]).run()
"""
# Tickets of the seconds that a file tells.
STARTER = """
import sys
from pathlib import Path
from dashboard import tickets
from dashboard.server import serve
lifetime, issue = Path(sys.argv[1]), tickets.issue
tickets.issue = lambda secret, now: issue(secret, now + int(lifetime.read_text()) - tickets.LIFETIME_SECONDS)
serve(sys.argv[3:], Path(sys.argv[2]))
"""


class Dashboard:
    """The dashboard's real server with one small page."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(home=folder / "home", dashboard_port=free_port(), upload_max_gb=0.2)
        self.script = folder / "page.py"
        self.script.write_text(SCRIPT)
        self.log = folder / "log"
        self.ticket_seconds = folder / "ticket_seconds"
        self.ticket_seconds.write_text("3600")

    def start(self) -> None:
        flags = command(self.settings)[3:]
        home = {
            "SIMPLENET_HOME": str(self.settings.home),
            "SIMPLENET_UPLOAD_MAX_GB": str(self.settings.upload_max_gb),
        }
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", STARTER, str(self.ticket_seconds), str(self.script), *flags],
                env={**os.environ, **home},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        wait_for(f"{self.settings.dashboard_url}/_stcore/health", self.process, self.log)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def uploads(self) -> list[Upload]:
        return staging.list_uploads(self.settings.staging_folder)

    def arrived(self) -> int:
        """Bytes of all uploads."""
        return sum(sum(staging.received(upload)) for upload in self.uploads())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    dashboard = Dashboard(tmp_path_factory.mktemp("dashboard"))
    dashboard.start()
    yield dashboard
    dashboard.kill()


@pytest.fixture
def dashboard(running: Dashboard) -> Iterator[Dashboard]:
    """A server that runs and has no uploads."""
    for upload in running.uploads():
        staging.discard(running.settings.staging_folder, upload.id)
    yield running
    running.ticket_seconds.write_text("3600")
    if running.process.poll() is not None:
        running.start()


@pytest.fixture
def page(browser: Browser, dashboard: Dashboard) -> Iterator[Page]:
    """The page with the component; a script error in it fails the test."""
    address = dashboard.settings.dashboard_url
    with window(browser, address, width=1100, height=700, patience_ms=PAGE_MS) as opened:
        opened.on("dialog", lambda dialog: dialog.accept())  # "Leave the page?" while an upload runs
        opened.goto("/")
        expect(opened.get_by_text("Drop pictures, a folder or an archive here")).to_be_visible()
        yield opened


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip of 60 MB."""
    path = tmp_path / "plates.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        for number in range(60):
            out.writestr(f"{number:02d}.png", os.urandom(1_000_000))
    return path


def test_zip_arrives_and_the_page_learns_of_it(page: Page, dashboard: Dashboard, archive: Path) -> None:
    _choose(page, archive)
    expect(page.get_by_text("completed: 1")).to_be_visible()
    expect(page.get_by_text("✓ plates.zip")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
    _is(dashboard, archive)
    page.get_by_role("button", name="Discard it").click()
    expect(page.get_by_text("Drop pictures")).to_be_visible()
    expect(page.get_by_text("completed:")).to_be_hidden()


def test_progress_tells_amount_speed_and_remaining_time(page: Page, archive: Path) -> None:
    _throttle(page, SLOW)
    _choose(page, archive)
    figures = page.get_by_role("status")
    for told in ("of 60.0 MB", "MB/s", "s left"):
        expect(figures).to_contain_text(told)


def test_another_upload_can_follow(page: Page, dashboard: Dashboard, archive: Path) -> None:
    _choose(page, archive)
    page.get_by_role("button", name="Upload something else").click()
    expect(page.get_by_text("Drop pictures")).to_be_visible()
    expect(page.get_by_text("completed:")).to_be_hidden()
    _choose(page, archive)  # complete ones are not gone on with
    expect(page.get_by_text("completed: 1")).to_be_visible()
    assert len(dashboard.uploads()) == 2


def test_folder_of_many_small_files_is_dropped(page: Page, dashboard: Dashboard, tmp_path: Path) -> None:
    folder = tmp_path / "plates"
    contents = {
        f"plates/{kind}/{number:04d}.PNG": f"{kind} {number}".encode() * (number % 50)
        for kind in ("good", "scratch/deep")
        for number in range(1500)
    }
    left_out = {
        "plates/.git/a.png": b"x",
        "plates/Thumbs.db": b"x",
        "plates/video.mp4": b"x",
        "plates/README": b"x",
    }
    for name, data in {**contents, **left_out}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    before = _elements(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.method))
    _drop(page, folder)
    expect(page.get_by_text("completed: 3000")).to_be_visible()
    expect(page.get_by_text("2 files are left out")).to_be_visible()
    expect(page.get_by_text("plates/video.mp4: It is a video. Export its frames as PNG.")).to_be_visible()
    expect(page.get_by_text("plates/README: It is no picture, table or archive.")).to_be_visible()
    assert requests.count("PATCH") < 10
    assert _elements(page) <= before + 20
    (upload,) = dashboard.uploads()
    assert {file.name: file.path.read_bytes() for file in upload.source_files()} == contents
    assert {one.name for one in upload.refused} == {"plates/video.mp4", "plates/README"}


def test_folder_is_chosen(page: Page, dashboard: Dashboard, tmp_path: Path) -> None:
    path = tmp_path / "plates" / "good" / "1.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"picture")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a folder").click()
    chooser.value.set_files(tmp_path / "plates")
    expect(page.get_by_text("completed: 1")).to_be_visible()
    assert [file.name for file in dashboard.uploads()[0].files] == ["plates/good/1.png"]


def test_what_can_not_be_used_is_refused_at_once(page: Page, dashboard: Dashboard, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"x")
    _choose(page, tmp_path / "film.mp4")
    expect(page.get_by_role("alert")).to_contain_text("'film.mp4' is no picture, table or archive")
    expect(page.get_by_text("film.mp4: It is a video. Export its frames as PNG.")).to_be_visible()
    with (tmp_path / "huge.zip").open("wb") as out:
        out.truncate(200_000_001)
    _choose(page, tmp_path / "huge.zip")
    expect(page.get_by_role("alert")).to_contain_text("at most 0.2 GB can come at once")
    expect(page.get_by_text("Drop pictures")).to_be_visible()
    assert dashboard.uploads() == []


def test_upload_goes_on_after_a_lost_connection(page: Page, dashboard: Dashboard, archive: Path) -> None:
    _throttle(page, SLOW)
    _choose(page, archive)
    _until(lambda: dashboard.arrived() > 0)
    _throttle(page, SLOW, offline=True)
    expect(page.get_by_role("status")).to_contain_text("Connection lost. What was sent is kept. Trying again")
    page.get_by_role("button", name="Try now").click()
    expect(page.get_by_role("status")).to_contain_text("Trying again in")
    _throttle(page, -1)
    expect(page.get_by_text("completed: 1")).to_be_visible()
    _is(dashboard, archive)


def test_upload_goes_on_after_the_server_was_killed(page: Page, dashboard: Dashboard, archive: Path) -> None:
    _throttle(page, SLOW)
    _choose(page, archive)
    _until(lambda: dashboard.arrived() > 0)
    dashboard.kill()
    expect(page.get_by_role("status")).to_contain_text("Connection lost")
    kept = dashboard.arrived()
    offsets = _offsets(page)
    _throttle(page, -1)
    dashboard.start()
    expect(page.get_by_text("completed: 1")).to_be_visible()  # it tries by itself
    assert offsets[0] == kept > 0
    _is(dashboard, archive)


def test_upload_goes_on_after_a_reload_once_the_same_file_is_chosen(
    page: Page, dashboard: Dashboard, archive: Path
) -> None:
    _throttle(page, SLOW)
    _choose(page, archive)
    _until(lambda: dashboard.arrived() > 10_000_000)
    page.reload()
    expect(page.get_by_text("Drop pictures")).to_be_visible()
    expect(page.get_by_text("An upload was under way a moment ago: plates.zip")).to_be_visible()
    expect(page.get_by_role("button", name="Delete")).to_be_hidden()  # another window may be sending it
    _throttle(page, -1)
    offsets = _offsets(page)
    _choose(page, archive)
    expect(page.get_by_text("completed: 1")).to_be_visible()
    assert offsets[0] > 8_000_000
    _is(dashboard, archive)


def test_upload_that_stopped_is_told_and_can_be_deleted(
    page: Page, dashboard: Dashboard, archive: Path
) -> None:
    _throttle(page, SLOW)
    _choose(page, archive)
    _until(lambda: dashboard.arrived() > 0)
    page.goto("about:blank")
    _until(lambda: _quiet(dashboard))  # what was under way has come
    (upload,) = dashboard.uploads()
    an_hour_ago = time.time() - 3600
    for path in (upload.folder / "upload.json", upload.path(0)):
        os.utime(path, (an_hour_ago, an_hour_ago))
    page.goto("/")
    expect(page.get_by_text("An upload stopped half way: plates.zip")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("An upload stopped half way")).to_be_hidden()
    _until(lambda: dashboard.uploads() == [])


def test_upload_goes_on_while_another_page_is_looked_at(
    page: Page, dashboard: Dashboard, archive: Path
) -> None:
    _throttle(page, SLOW)
    _choose(page, archive)
    _until(lambda: dashboard.arrived() > 0)
    page.get_by_role("link", name="Other").click()
    expect(page.get_by_text("something else")).to_be_visible()
    _throttle(page, -1)
    _until(lambda: dashboard.uploads()[0].completed is not None)
    page.get_by_role("link", name="Add").click()
    expect(page.get_by_text("completed: 1")).to_be_visible()
    _is(dashboard, archive)


def test_ticket_that_ran_out_is_replaced_meanwhile(page: Page, dashboard: Dashboard, archive: Path) -> None:
    dashboard.ticket_seconds.write_text("3")
    page.reload()
    expect(page.get_by_text("Drop pictures")).to_be_visible()
    _throttle(page, SLOW)
    statuses: list[int] = []
    page.on("response", lambda response: statuses.append(response.status))
    _choose(page, archive)
    expect(page.get_by_text("completed: 1")).to_be_visible(timeout=60_000)
    assert 401 in statuses
    _is(dashboard, archive)


def test_full_disk_is_told_and_the_upload_goes_on(page: Page, dashboard: Dashboard, archive: Path) -> None:
    _throttle(page, SLOW)
    _choose(page, archive)
    _until(lambda: dashboard.arrived() > 0)
    (upload,) = dashboard.uploads()
    file = upload.path(0)
    file.rename(upload.folder / "kept")
    file.symlink_to("/dev/full")  # every write to it fails as on a full disk
    _throttle(page, -1)
    expect(page.get_by_role("status")).to_contain_text("free some space on the server")
    (upload.folder / "kept").replace(file)
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("completed: 1")).to_be_visible()
    _is(dashboard, archive)


def test_file_that_was_changed_meanwhile_is_named(page: Page, dashboard: Dashboard, archive: Path) -> None:
    _throttle(page, SLOW)
    _choose(page, archive)
    _until(lambda: dashboard.arrived() > 0)
    archive.write_bytes(b"another")
    _throttle(page, -1)
    expect(page.get_by_role("status")).to_contain_text("'plates.zip' can no longer be read on this computer")


def test_upload_that_the_server_forgot_can_start_over(
    page: Page, dashboard: Dashboard, archive: Path
) -> None:
    _throttle(page, SLOW)
    _choose(page, archive)
    _until(lambda: dashboard.arrived() > 0)
    staging.discard(dashboard.settings.staging_folder, dashboard.uploads()[0].id)
    expect(page.get_by_role("status")).to_contain_text("Choose the files again")
    page.get_by_role("button", name="Start over").click()
    expect(page.get_by_text("Drop pictures")).to_be_visible()


def test_cancel_asks_and_then_deletes_what_was_sent(page: Page, dashboard: Dashboard, archive: Path) -> None:
    _throttle(page, SLOW)
    _choose(page, archive)
    _until(lambda: dashboard.arrived() > 0)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_contain_text("Paused at")
    _until(lambda: _quiet(dashboard))
    kept = dashboard.arrived()
    page.wait_for_timeout(2000)
    assert dashboard.arrived() == kept  # nothing is sent while it is asked
    page.get_by_role("button", name="Go on").click()
    _until(lambda: dashboard.arrived() > kept)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Stop and delete what was sent").click()
    expect(page.get_by_text("Drop pictures")).to_be_visible()
    _until(lambda: dashboard.uploads() == [])


def _choose(page: Page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose files").click()
    chooser.value.set_files(path)


def _drop(page: Page, path: Path) -> None:
    """Drop what lies at `path` as a hand would; events made by scripts can carry no folder."""
    box = page.get_by_text("Drop pictures").bounding_box()
    assert box is not None
    session = _devtools(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send(
            "Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 5, "y": box["y"] + 5, "data": data}
        )


def _throttle(page: Page, speed: int, *, offline: bool = False) -> None:
    """Limit what the page sends to bytes per second; -1: no limit."""
    conditions = {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": speed}
    session = _devtools(page)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", conditions)


_sessions: dict[Page, CDPSession] = {}


def _devtools(page: Page) -> CDPSession:
    if page not in _sessions:  # what a session emulates ends with it
        _sessions[page] = page.context.new_cdp_session(page)
    return _sessions[page]


def _offsets(page: Page) -> list[int]:
    """A list that fills with where the page sends bytes to, from now on."""
    offsets: list[int] = []
    page.on(
        "request",
        lambda request: request.method == "PATCH" and offsets.append(int(request.headers["upload-offset"])),
    )
    return offsets


def _elements(page: Page) -> int:
    return int(
        page.locator(".uploader").evaluate("element => element.getRootNode().querySelectorAll('*').length")
    )


def _is(dashboard: Dashboard, path: Path) -> None:
    (upload,) = dashboard.uploads()
    (file,) = upload.source_files()
    assert (upload.completed is not None, file.name) == (True, path.name)
    assert file.path.read_bytes() == path.read_bytes()


def _quiet(dashboard: Dashboard) -> bool:
    before = dashboard.arrived()
    time.sleep(0.5)
    return dashboard.arrived() == before


def _until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)
