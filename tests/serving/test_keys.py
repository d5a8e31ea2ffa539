"""Keys in memory: read, used, revoked, and kept while the database is locked."""

import sqlite3
from contextlib import closing

import pytest

from storage import api_keys
from storage.errors import DatabaseUnavailable
from storage.records import now
from storage.workspace import open_workspace
from tuning.serving.access import is_loopback
from tuning.serving.keys import Keys, own_key

pytestmark = pytest.mark.slow


def add(workspace, name="line 3"):
    with workspace.session() as session:
        return api_keys.add_key(session, name=name, who="test", now=now())[1]


def used(workspace):
    with workspace.session() as session:
        return {one.name: one.last_used_at is not None for one in api_keys.list_keys(session)}


def test_key_opens_from_the_next_look_until_it_is_revoked(workspace):
    keys = Keys(workspace)
    key = add(workspace)
    assert not keys.opens(key)
    keys.refresh()
    assert keys.opens(key)
    assert not keys.opens(key[:-1])
    assert not keys.opens(api_keys.key_digest(key))  # what lies in the database is no key
    with workspace.session() as session:
        api_keys.revoke_key(session, name="line 3", now=now())
    keys.refresh()
    assert not keys.opens(key)


def test_own_key_opens_and_leaves_no_trace(workspace):
    keys = Keys(workspace)
    own = own_key(workspace.settings.home)
    assert keys.is_own(own)
    assert keys.opens(own)
    assert not keys.is_own("own_")
    assert not keys.opens("own_é")
    add(workspace)
    keys.note_uses()
    assert used(workspace) == {"line 3": False}


def test_use_is_noted_once_the_database_can_be_written(workspace, monkeypatch):
    monkeypatch.setattr("storage.database.BUSY_TIMEOUT_SECONDS", 0)
    impatient = open_workspace(workspace.settings)
    keys = Keys(impatient)
    key = add(workspace)
    with closing(sqlite3.connect(workspace.settings.home / "app.db")) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        keys.refresh()  # reading goes on
        assert keys.opens(key)
        with pytest.raises(DatabaseUnavailable):
            keys.note_uses()
    keys.note_uses()
    assert used(workspace) == {"line 3": True}
    impatient.close()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.0.0.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("gpu1", False),  # whatever it resolves to, nobody has looked
    ],
)
def test_only_this_machine_is_loopback(host, loopback):
    assert is_loopback(host) is loopback
