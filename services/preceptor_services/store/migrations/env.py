"""Alembic's entry: runs over the connection that `database.py` hands in."""

from __future__ import annotations

from alembic import context

from preceptor_services.store.tables import corrections as correction_tables
from preceptor_services.store.tables import provenance as provenance_tables
from preceptor_services.store.tables.questions import Base

assert all((correction_tables, provenance_tables)), "imported so that the metadata holds all tables"
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
