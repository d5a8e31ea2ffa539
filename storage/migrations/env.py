"""What alembic runs around migrations; connection and transaction belong to `storage.database.migrate`."""

from alembic import context

# No target metadata: its naming convention would rename the constraints that migrations spell out.
context.configure(
    connection=context.config.attributes["connection"],
    render_as_batch=True,  # SQLite alters a table by copying it
)
context.run_migrations()
