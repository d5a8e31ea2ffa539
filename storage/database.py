"""Opening, migrating and talking to our database: SQLite by default, PostgreSQL for several machines.

Both backends behave alike: every statement sees what is committed when it starts (READ COMMITTED), the
first write of a session takes the locks, foreign keys are enforced. On SQLite that first write therefore
takes the write lock of the whole database with BEGIN IMMEDIATE, waiting for it: a deferred transaction that
has read before it writes fails at once instead, whenever another process wrote in between.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from sqlite3 import SQLITE_FULL
from sqlite3 import Connection as SqliteConnection
from sqlite3 import Error as SqliteError
from sqlite3 import OperationalError as SqliteOperationalError
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.orm import Session

from storage.errors import DatabaseUnavailable, SchemaTooNew

BUSY_TIMEOUT_SECONDS = 30  # how long a writer waits for another one on SQLite
CONNECT_TIMEOUT_SECONDS = 10
MIGRATIONS = Path(__file__).parent / "migrations"
_POSTGRES_DISK_FULL = "53100"
_MIGRATION_LOCK = 0x53494D504C45  # any number that all our processes share; PostgreSQL's advisory lock


def create_database(url: str) -> Engine:
    """Make the engine for an address; connects to nothing yet.

    Args:
        url: SQLAlchemy's form: sqlite:////folder/app.db or postgresql+psycopg://user:password@host/name.
    Raises:
        DatabaseUnavailable: the address isn't understood, or its driver isn't installed.
    """
    options: dict[str, Any] = {}
    try:
        address = make_url(url)
        backend = address.get_backend_name()
        if backend == "postgresql":
            # A server restart must not fail the first query of every pooled connection.
            options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_TIMEOUT_SECONDS}}
        elif backend != "sqlite":
            raise DatabaseUnavailable(
                f"Database {address!r} is of kind {backend!r}; only SQLite and PostgreSQL are supported. "
                "Set SIMPLENET_DATABASE_URL to sqlite:////path/app.db or postgresql://user:password@host/name."
            )
        # NaN and infinities are no JSON: PostgreSQL would refuse them where SQLite would not.
        engine = create_engine(
            address, json_serializer=partial(json.dumps, allow_nan=False, ensure_ascii=False), **options
        )
    except ArgumentError as error:
        raise DatabaseUnavailable(
            f"Database address is not understood: {error}. "
            "Set SIMPLENET_DATABASE_URL to sqlite:////path/app.db or postgresql://user:password@host/name."
        ) from error
    except ModuleNotFoundError as error:
        raise DatabaseUnavailable(
            f"Database {address!r} needs the Python package {error.name!r}. "
            "Install simplenet-automl[postgres]."
        ) from error
    if backend == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: SqliteConnection, _record: object) -> None:
    connection.isolation_level = "IMMEDIATE"
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")
    # In this mode readers and the writer don't wait for each other. The busy timeout doesn't cover changing
    # to it.
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone() == ("delete",):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except SqliteOperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def session(engine: Engine) -> Iterator[Session]:
    """A session that commits at the end, or rolls everything back when anything is raised.

    Keep it short: from its first write on, other writers of the same rows (SQLite: all writers) wait for
    its end. Not to be shared by threads.

    Raises:
        DatabaseUnavailable: it doesn't answer, or another process kept it locked for too long; trying again may help.
    """
    try:
        with Session(engine, expire_on_commit=False) as opened, opened.begin():
            yield opened
    except OperationalError as error:
        raise _unavailable(engine, error) from error
    except DBAPIError as error:
        if not error.connection_invalidated:  # the server went away in the middle of something
            raise
        raise _unavailable(engine, error) from error


def migrate(engine: Engine) -> None:
    """Bring the database to the schema of this program, from whatever older state, or from nothing.

    Does nothing when it is there already. Several processes may call it at once: one works, the others wait.
    A migration that fails leaves the database as it was.

    Raises:
        SchemaTooNew: a newer program has migrated it.
        DatabaseUnavailable: it can't be opened.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    try:
        with engine.connect() as connection:
            if _is_current(connection, scripts):
                return
        with engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python's driver begins none for CREATE TABLE
            else:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            if not _is_current(connection, scripts):
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
    except OperationalError as error:
        raise _unavailable(engine, error) from error


def _unavailable(engine: Engine, error: DBAPIError) -> DatabaseUnavailable:
    if _is_full(error.orig):
        return DatabaseUnavailable(
            f"Database {engine.url!r} could not be written: its disk is full. Free some space there, then try again; "
            "what was there before is unchanged."
        )
    return DatabaseUnavailable(
        f"Database {engine.url!r} could not be used: {str(error.orig).strip()}. "
        "Check SIMPLENET_DATABASE_URL, that the server runs and that the folder may be written, then try again."
    )


def _is_full(error: BaseException | None) -> bool:
    if isinstance(error, SqliteError):
        return (error.sqlite_errorcode or 0) & 0xFF == SQLITE_FULL
    return getattr(error, "sqlstate", None) == _POSTGRES_DISK_FULL


def _is_current(connection: Connection, scripts: ScriptDirectory) -> bool:
    present = set(MigrationContext.configure(connection).get_current_heads())
    known = {script.revision for script in scripts.walk_revisions()}
    if not present <= known:
        raise SchemaTooNew(
            f"Database {connection.engine.url!r} has schema {', '.join(sorted(present))}; this program knows "
            f"up to {', '.join(scripts.get_heads())}. "
            "Use the newer program, or set SIMPLENET_HOME to another folder."
        )
    return present == set(scripts.get_heads())
