"""Which database the registry is kept in."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from .database import Database
from .errors import GenomeUnavailableError
from .settings import GenomeSettings
from .sql_store import SqlModelStore
from .sqlite_database import SqliteDatabase

FILE_NAME = "genome.sqlite"


@contextlib.asynccontextmanager
async def open_store(settings: GenomeSettings) -> AsyncIterator[SqlModelStore]:
    """Open (make, migrate) the registry that the settings name. Raises GenomeUnavailableError."""
    database = _database(settings)
    try:
        await database.open()
        yield SqlModelStore(database)
    finally:
        await database.close()


def _database(settings: GenomeSettings) -> Database:
    if settings.database_url is None:
        return SqliteDatabase(settings.data_dir / FILE_NAME)
    try:
        from .postgres_database import PostgresDatabase
    except ImportError as error:
        raise GenomeUnavailableError(
            "GENOME_DATABASE_URL needs PostgreSQL's driver: pip install 'mnemos-neuron[postgres]'."
        ) from error
    return PostgresDatabase(settings.database_url.get_secret_value())
