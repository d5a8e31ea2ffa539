from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, Inspector, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from storage.database import create_database, migrate, session
from storage.errors import DatabaseUnavailable, SchemaTooNew
from storage.records import DatasetVersion, Study
from storage.schema import Base, DatasetRow, VersionRow

START = datetime(2030, 1, 1, 12, tzinfo=UTC)


def test_migrations_lead_from_empty_to_the_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_lead_to_the_same_constraints_as_the_schema(
    engine: Engine,
    open_database: Callable[[str], Engine],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    # What alembic does not compare: checks, names of keys, what is done on delete.
    if engine.dialect.name == "sqlite":
        direct = open_database(f"sqlite:///{tmp_path / 'direct.db'}")
    else:
        direct = open_database(request.getfixturevalue("postgres").new_database())
    Base.metadata.create_all(direct)
    migrated = inspect(engine)
    assert set(migrated.get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    for table in Base.metadata.tables:
        assert _constraints(migrated, table) == _constraints(inspect(direct), table)


def _constraints(inspector: Inspector, table: str) -> dict[str, list[str]]:
    def texts(found: list[Any]) -> list[str]:
        return sorted(repr({key: _text(value) for key, value in one.items()}) for one in found)

    return {
        "primary": texts([inspector.get_pk_constraint(table)]),
        "foreign": texts(inspector.get_foreign_keys(table)),
        "unique": texts(inspector.get_unique_constraints(table)),
        "checks": texts(inspector.get_check_constraints(table)),
        "indexes": texts(inspector.get_indexes(table)),
    }


def _text(value: object) -> str:
    # The condition of a partial index is an object that equals no other.
    return str({key: str(one) for key, one in value.items()} if isinstance(value, dict) else value)


def test_every_constraint_has_a_name(engine: Engine) -> None:
    inspector = inspect(engine)
    for table in Base.metadata.tables:
        found = [
            *inspector.get_foreign_keys(table),
            *inspector.get_unique_constraints(table),
            *inspector.get_check_constraints(table),
            *inspector.get_indexes(table),
        ]
        assert all(one["name"] for one in found), table


def test_migrating_again_changes_nothing(engine: Engine, make_version: Callable[..., DatasetVersion]) -> None:
    make_version("plates")
    migrate(engine)
    with session(engine) as opened:
        assert opened.scalars(select(DatasetRow.name)).all() == ["plates"]


def test_migration_that_fails_leaves_the_database_as_it_was(
    database_url: str, open_database: Callable[[str], Engine]
) -> None:
    engine = open_database(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE models (id INTEGER)"
        )  # in the way of the middle of the migration
    with pytest.raises((DatabaseUnavailable, DBAPIError), match="models"):
        migrate(engine)
    assert set(inspect(engine).get_table_names()) == {"models"}


def test_database_of_a_newer_program_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew, match=r"has schema 9999; this program knows up to \d{4}"):
        migrate(engine)


def test_session_commits_at_its_end(engine: Engine) -> None:
    with session(engine) as opened:
        opened.add(DatasetRow(name="plates", created_at=START))
    with session(engine) as opened:
        assert opened.scalars(select(DatasetRow.name)).all() == ["plates"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_session_rolls_back_whatever_is_raised(engine: Engine, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with session(engine) as opened:
            opened.add(DatasetRow(name="plates", created_at=START))
            opened.flush()
            raise error

    with pytest.raises(error):
        interrupted()
    with session(engine) as opened:
        assert opened.scalars(select(DatasetRow.name)).all() == []


def test_session_that_reads_before_it_writes_survives_a_writer_in_between(engine: Engine) -> None:
    with session(engine) as one:
        assert one.scalars(select(DatasetRow.name)).all() == []
        with session(engine) as other:
            other.add(DatasetRow(name="plates", created_at=START))
        one.add(DatasetRow(name="brackets", created_at=START))
        one.flush()
        assert sorted(one.scalars(select(DatasetRow.name))) == ["brackets", "plates"]


def test_foreign_keys_are_enforced(engine: Engine) -> None:
    version = {
        "dataset_id": 404,
        "number": 1,
        "digest": "0" * 64,
        "source": "",
        "source_split": False,
        "created_at": START,
        "counts": {},
        "mask_count": 0,
    }
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"), session(engine) as opened:
        opened.execute(insert(VersionRow), [version])


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE images SET role = 'train set'", "ck_images_role"),
        ("UPDATE images SET label = 'good', role = 'test'", "ck_images_label"),
        ("UPDATE images SET label = 'anomalous'", "ck_images_anomalous_is_held_out"),
        ("UPDATE images SET defect_type = 'scratch'", "ck_images_normal_has_no_defect"),
        ("UPDATE images SET height = 0", "ck_images_size"),
        ("UPDATE dataset_versions SET number = 0", "ck_dataset_versions_number"),
        ("UPDATE dataset_versions SET mask_count = -1", "ck_dataset_versions_mask_count"),
        ("UPDATE studies SET state = 'stuck'", "ck_studies_"),
        ("UPDATE studies SET wanted = 'stop'", "ck_studies_wanted"),
        ("UPDATE studies SET attempt = -1", "ck_studies_attempt"),
        ("UPDATE studies SET state = 'running'", "ck_studies_lease_while_running"),
        ("UPDATE studies SET worker_id = 'w'", "ck_studies_lease_while_running"),
        ("UPDATE studies SET state = 'failed'", "ck_studies_finished_at"),
    ],
)
def test_rules_hold_in_the_database_itself(
    engine: Engine, make_study: Callable[..., Study], statement: str, constraint: str
) -> None:
    make_study()
    with pytest.raises(IntegrityError, match=constraint), session(engine) as opened:
        opened.execute(text(statement))


@pytest.mark.parametrize("offset_hours", [-8, 0, 5.5])
def test_datetimes_come_back_as_the_same_moment_in_utc(engine: Engine, offset_hours: float) -> None:
    moment = datetime(2030, 6, 1, 23, 59, 59, 999_999, timezone(timedelta(hours=offset_hours)))
    with session(engine) as opened:
        opened.add(DatasetRow(name="plates", created_at=moment))
    with session(engine) as opened:
        found = opened.scalars(select(DatasetRow.created_at)).one()
    assert found == moment
    assert found.tzinfo is UTC


def test_datetime_without_timezone_is_refused(engine: Engine) -> None:
    with pytest.raises(StatementError, match="has no timezone"), session(engine) as opened:
        opened.add(DatasetRow(name="plates", created_at=datetime(2030, 1, 1)))


def test_nan_in_json_is_refused(engine: Engine, make_study: Callable[..., Study]) -> None:
    study = make_study()
    with pytest.raises((StatementError, ValueError), match="JSON compliant"), session(engine) as opened:
        opened.execute(
            Base.metadata.tables["studies"]
            .update()
            .values(progress={"best": float("nan")})
            .where(text(f"id = {study.id}"))
        )


def test_sqlite_is_prepared_for_several_processes(
    tmp_path: Path, open_database: Callable[[str], Engine]
) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'app.db'}")
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000}


@pytest.mark.parametrize("url", ["mysql://user:secret@host/name", "not an address", "sqlite+nodriver:///x"])
def test_address_of_another_kind_is_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="SIMPLENET_DATABASE_URL") as caught:
        create_database(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_database_that_can_not_be_reached_is_named_without_its_password(
    backend: str, tmp_path: Path, open_database: Callable[[str], Engine]
) -> None:
    url = f"sqlite:///{tmp_path}/absent/app.db"
    if backend == "postgresql":
        url = "postgresql+psycopg://user:secret@127.0.0.1:1/name"  # nothing listens on port 1
    engine = open_database(url)
    with pytest.raises(DatabaseUnavailable, match="could not be used") as caught:
        migrate(engine)
    assert "secret" not in str(caught.value)
    with pytest.raises(DatabaseUnavailable), session(engine) as opened:
        opened.scalars(select(DatasetRow)).all()
