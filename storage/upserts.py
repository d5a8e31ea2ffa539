"""Rows that are written whether or not they are there already, on both backends and beside other writers."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from storage.schema import Base

ROWS_AT_ONCE = 500  # a database takes only so many values in one statement


def put_rows(
    session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]], *, replace: bool
) -> None:
    """Write rows, each primary key at most once; one that another session is writing at this moment is waited for.

    Args:
        rows: values by column, all columns in each.
        replace: whether what is there under the same primary key is overwritten; else it stays.
    """
    keys = [column.name for column in inspect(table).primary_key]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    insert = dialect.insert(table)
    others = [column.name for column in inspect(table).columns if column.name not in keys]
    statement = (
        insert.on_conflict_do_update(
            index_elements=keys, set_={name: insert.excluded[name] for name in others}
        )
        if replace
        else insert.on_conflict_do_nothing()
    )
    # In one order everywhere: two sessions that write the same rows in different orders wait for each other for ever.
    ordered = sorted(rows, key=lambda row: [row[name] for name in keys])
    for start in range(0, len(ordered), ROWS_AT_ONCE):
        session.execute(statement, ordered[start : start + ROWS_AT_ONCE])
