"""Which database the store is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..clock import Clock
from ..errors import StartError
from ..notifier import Notifier
from ..numbers import Measurements
from ..settings import CortexSettings
from .shares import Shares
from .sqlite_store import SqliteStore
from .store import SqlStore


def open_store(
    settings: CortexSettings,
    notifier: Notifier,
    *,
    clock: Clock | None,
    measure: Callable[[Measurements], None],
) -> SqlStore:
    """Make the store that the settings name, to be entered.

    Raises StartError where PostgreSQL's driver is not installed.
    """
    options: dict[str, Any] = {
        "lease_seconds": settings.lease_seconds,
        "worker_silence_seconds": settings.heartbeat_timeout_seconds,
        "worker_retention_seconds": settings.worker_retention_seconds,
        "timeout_grace_seconds": settings.timeout_grace_seconds,
        "max_lost_workers": settings.max_lost_workers,
        "shares": Shares(
            batch_share=settings.batch_share, interactive_slots=settings.interactive_slots
        ),
        "clock": clock,
        "measure": measure,
    }
    if settings.database_url is None:
        return SqliteStore(settings.data_dir, notifier, **options)
    try:
        from .postgres.store import PostgresStore
    except ImportError as error:
        raise StartError(
            "CORTEX_DATABASE_URL needs PostgreSQL's driver: pip install 'mnemos-neuron[postgres]'."
        ) from error
    return PostgresStore(settings.database_url.get_secret_value(), notifier, **options)
