"""Bringing CORTEX's tables up to date without serving: what a deployment does once, before."""

from __future__ import annotations

from pathlib import Path

from ..errors import StartError
from ..settings import CortexSettings
from .database import DATABASE_NAME, DirectoryLock, migrate


def migrate_database(settings: CortexSettings) -> None:
    """Bring the tables that the settings name up to date. Blocks; raises StartError."""
    if settings.database_url is None:
        _migrate_directory(settings.data_dir)
        return
    try:
        from .postgres.opening import prepare
    except ImportError as error:
        raise StartError(
            "CORTEX_DATABASE_URL needs PostgreSQL's driver: pip install 'mnemos-neuron[postgres]'."
        ) from error
    prepare(settings.database_url.get_secret_value())


def _migrate_directory(directory: Path) -> None:
    lock = DirectoryLock(directory)
    lock.acquire()
    try:
        migrate(directory / DATABASE_NAME)
    finally:
        lock.release()
