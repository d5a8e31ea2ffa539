"""Keys that let programs use the model server: named, shown once, kept as digests only, revocable.

A key is 256 random bits, so that its plain SHA-256 can't be guessed back: what slows guessing of passwords down would
only slow every request down.
"""

import hashlib
import secrets
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage.errors import ApiKeyNotFound, BadApiKeyName
from storage.records import ApiKey
from storage.schema import NAME_LENGTH, ApiKeyRow

KEY_PREFIX = "sn_"  # so that people, and scanners for leaked secrets, know what it is
KEY_BYTES = 32
HINT_LENGTH = len(KEY_PREFIX) + 4  # characters of a key that are kept, to tell keys apart


def key_digest(key: str) -> str:
    """What is kept of a key: SHA-256 in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def add_key(session: Session, *, name: str, who: str, now: datetime) -> tuple[ApiKey, str]:
    """Make a key.

    Args:
        name: what it is for: 'line 3'. Unique among keys that are not revoked.
    Returns:
        Its record, and the key itself, which is known to nobody afterwards.
    Raises:
        BadApiKeyName: empty, too long, with control characters, or in use.
    """
    name = name.strip()
    if not 0 < len(name) <= NAME_LENGTH or not name.isprintable():
        raise BadApiKeyName(
            f"A key can't be named {name!r}: a name has 1 to {NAME_LENGTH} printable characters. Name what will use "
            "it, for instance 'line 3'."
        )
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    row = ApiKeyRow(
        name=name, digest=key_digest(key), hint=key[:HINT_LENGTH], who=who, created_at=now, last_used_at=None
    )
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError as error:
        raise BadApiKeyName(
            f"There is a key named {name!r} already; names of keys in use are unique. Revoke that one first, or choose "
            "another name."
        ) from error
    return _key(row), key


def list_keys(session: Session) -> list[ApiKey]:
    """All keys, revoked ones too, the newest first."""
    return [_key(row) for row in session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.id.desc()))]


def active_keys(session: Session) -> dict[str, int]:
    """Digest → id of the keys that are not revoked."""
    rows = session.scalars(select(ApiKeyRow).where(ApiKeyRow.revoked_at.is_(None)))
    return {row.digest: row.id for row in rows}


def revoke_key(session: Session, *, name: str, now: datetime) -> ApiKey:
    """End a key for good.

    Raises:
        ApiKeyNotFound: no key in use has this name.
    """
    row = session.scalar(
        select(ApiKeyRow).where(ApiKeyRow.name == name.strip(), ApiKeyRow.revoked_at.is_(None))
    )
    if row is None:
        names = session.scalars(select(ApiKeyRow.name).where(ApiKeyRow.revoked_at.is_(None))).all()
        have = ", ".join(map(repr, sorted(names))) or "none"
        raise ApiKeyNotFound(f"No key in use is named {name!r}. There are: {have}.")
    row.revoked_at = now
    session.flush()
    return _key(row)


def record_uses(session: Session, uses: Mapping[int, datetime]) -> None:
    """Write down when keys were last used, by their ids."""
    for row in session.scalars(select(ApiKeyRow).where(ApiKeyRow.id.in_(list(uses)))):
        row.last_used_at = max(uses[row.id], row.last_used_at or uses[row.id])


def _key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        hint=row.hint,
        who=row.who,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
