from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from storage import api_keys
from storage.database import session
from storage.errors import ApiKeyNotFound, BadApiKeyName, DamagedSecret
from storage.secret_files import secret

START = datetime(2030, 1, 1, 12, tzinfo=UTC)


def add(engine: Engine, name: str = "line 3") -> tuple[int, str]:
    with session(engine) as opened:
        made, key = api_keys.add_key(opened, name=name, who="ada", now=START)
    return made.id, key


def test_key_is_kept_as_a_digest_only(engine: Engine) -> None:
    number, key = add(engine)
    with session(engine) as opened:
        assert api_keys.active_keys(opened) == {api_keys.key_digest(key): number}
        (listed,) = api_keys.list_keys(opened)
        rows = opened.execute(text("SELECT * FROM api_keys")).all()
    assert key.startswith(listed.hint)
    assert len(key) > len(listed.hint) + 30
    assert (listed.name, listed.who, listed.created_at) == ("line 3", "ada", START)
    assert (listed.last_used_at, listed.revoked_at) == (None, None)
    assert key not in str(rows)


def test_every_key_is_another(engine: Engine) -> None:
    assert add(engine, "one")[1] != add(engine, "two")[1]


def test_name_is_unique_among_keys_in_use(engine: Engine) -> None:
    first, _ = add(engine)
    with pytest.raises(BadApiKeyName, match=r"a key named 'line 3' already; .* Revoke that one first"):
        add(engine)
    with session(engine) as opened:
        revoked = api_keys.revoke_key(opened, name="line 3", now=START + timedelta(hours=1))
    assert (revoked.id, revoked.revoked_at) == (first, START + timedelta(hours=1))
    second, key = add(engine)
    with session(engine) as opened:
        assert api_keys.active_keys(opened) == {api_keys.key_digest(key): second}
        assert [one.id for one in api_keys.list_keys(opened)] == [second, first]


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 64])
def test_name_that_nobody_could_tell_apart_is_refused(engine: Engine, name: str) -> None:
    with pytest.raises(BadApiKeyName, match="1 to 63 printable characters"):
        add(engine, name)


def test_key_that_is_not_there_can_not_be_revoked(engine: Engine) -> None:
    add(engine)
    with (
        session(engine) as opened,
        pytest.raises(ApiKeyNotFound, match=r"named 'line 4'\. There are: 'line 3'"),
    ):
        api_keys.revoke_key(opened, name="line 4", now=START)


def test_last_use_never_goes_back(engine: Engine) -> None:
    number, _ = add(engine)
    for hours in (2, 1):
        with session(engine) as opened:
            api_keys.record_uses(opened, {number: START + timedelta(hours=hours), 99: START})
    with session(engine) as opened:
        assert api_keys.list_keys(opened)[0].last_used_at == START + timedelta(hours=2)


def test_damaged_secret_is_told(tmp_path: Path) -> None:
    file = tmp_path / "some.secret"
    assert secret(file) == secret(file)
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"short")
    with pytest.raises(DamagedSecret, match=r"has 5 bytes instead of 32\. Delete it"):
        secret(file)
