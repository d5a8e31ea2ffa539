"""Alembic migrations of our database, run by `storage.database.migrate`; there is no ini file.

A new one: add the next number to `versions/`, with `down_revision` the number before it, in plain alembic
operations that work on SQLite and PostgreSQL alike (`op.batch_alter_table` for alterations). Migrations
spell out every name and type, and never import the schema: it will have changed by the time they run. A
test compares where they lead with `storage.schema`.
"""
