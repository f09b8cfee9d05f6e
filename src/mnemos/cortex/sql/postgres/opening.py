"""Making a PostgreSQL database ready, and saying in one sentence why that cannot be."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from ...errors import StartError
from ..migrating import upgrade
from .connection import with_liveness

OLDEST_VERSION = 14
MIGRATION_LOCK = 0x4D4E454D
"""Held in the database while one CORTEX migrates; the others wait."""


def prepare(url: str, revision: str = "head") -> None:
    """Bring the schema up to date, one CORTEX at a time. Raises StartError.

    Only tests stop at an older `revision`.
    """
    try:
        target = with_liveness(url)
    except psycopg.Error as error:
        raise StartError(f"CORTEX_DATABASE_URL cannot be read: {_first_line(error)}.") from error
    _check_server(url, target)
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(target), poolclass=NullPool
    )
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            upgrade(connection, revision)
    except Exception as error:
        raise unusable(url, getattr(error, "orig", None) or error) from error
    finally:
        engine.dispose()


def unusable(url: str, error: Exception) -> StartError:
    """Say why CORTEX cannot work in a database that it reached."""
    return StartError(f"{_place(url)} cannot be used: {_first_line(error)}.")


def _check_server(url: str, target: str) -> None:
    try:
        with psycopg.connect(target) as session:
            version = session.info.server_version // 10_000
    except psycopg.Error as error:
        raise StartError(_refusal(url, error)) from error
    if version < OLDEST_VERSION:
        raise StartError(
            f"{_place(url)} is PostgreSQL {version}; CORTEX needs {OLDEST_VERSION} or newer."
        )


def _refusal(url: str, error: psycopg.Error) -> str:
    told = str(error)
    if any(words in told for words in ("authentication failed", "no password supplied", 'role "')):
        user = conninfo_to_dict(url).get("user", "of this system")
        return (
            f"{_place(url)} refuses the user {user}: "
            "check the user and the password in CORTEX_DATABASE_URL."
        )
    if 'database "' in told and "does not exist" in told:
        return f"{_place(url)} does not exist: create it, or name another in CORTEX_DATABASE_URL."
    return f"{_place(url)} cannot be reached: {_first_line(error)}."


def _place(url: str) -> str:
    """Name the database without its password."""
    told: dict[str, Any] = conninfo_to_dict(url)
    name = told.get("dbname", told.get("user", ""))
    return f"The database {name} on {told.get('host', 'this machine')}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else type(error).__name__
