"""Bringing a database's schema up to date with Alembic."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

_MIGRATIONS = Path(__file__).parent.parent / "migrations"
_migrating = threading.Lock()  # Alembic's environment is one per process


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Apply what is missing, inside the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _migrating:
        command.upgrade(config, revision)
