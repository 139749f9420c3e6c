"""Alembic's entry: runs migrations on the connection that ``migrating.upgrade`` hands over."""

from alembic import context

from atoll.server.stores.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite alters tables by copying them.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
