"""Run by Alembic: migrates over the connection that GENOME hands in, in its transaction."""

from __future__ import annotations

from alembic import context

from mnemos.genome.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=context.config.attributes["version_table"],
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
