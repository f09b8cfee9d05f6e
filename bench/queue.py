"""Durable no-op jobs through the whole system, beside the two best durable peers in Python.

A job brings 500 bytes and stores a result of 500 bytes. All are enqueued first, over HTTP here and
by the peer's own client there; then one worker process with 64 slots starts. The clock runs from
the first handler's start until all results can be read. Each round measures every queue, one
after another, on the same machine and the same PostgreSQL; the median round counts. Peers run
with their best documented settings, in an environment of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postgres_tools import Postgres, any_server

from .queues import claims, neuron, peers
from .queues.figures import JOBS, PICKUPS, ROUNDS, SINGLES, Figures
from .report import Row

POSTGRES, SQLITE = "CORTEX, PostgreSQL", "CORTEX, SQLite"
JOBS_TARGET = {POSTGRES: 3.0, SQLITE: 4.0}
SINGLES_TARGET = 1.0
PICKUP_TARGET = 1.0
PICKUP_SQLITE_MS = 3.0
BACKLOG_TARGET = 2.0


def run() -> list[Row]:
    """Return the figures, and the ratios with their targets."""
    peers.prepare()
    with any_server() as url:
        server = Postgres(url)
        ours, theirs = measured(server)
        backlog = [row for kind in ours for row in backlog_rows(kind, server)]
    rows = [row for figures in (*theirs, *ours.values()) for row in plain_rows(figures)]
    for kind, figures in ours.items():
        rows += ratio_rows(kind, figures, theirs)
    return rows + backlog


def measured(server: Postgres) -> tuple[dict[str, Figures], list[Figures]]:
    """Measure every queue in every round: ours by kind, and the peers."""
    ours = {kind: Figures(kind) for kind in (POSTGRES, SQLITE)}
    theirs = [Figures(name) for name in peers.PEERS]
    for _ in range(ROUNDS):
        for peer in theirs:
            with server.database(template="template0") as dsn:
                peer.add(peers.measure(peer.name, dsn))
        for kind, figures in ours.items():
            with (
                database(kind, server) as database_url,
                tempfile.TemporaryDirectory() as folder,
            ):
                told = neuron.measure(Path(folder), database_url, JOBS, SINGLES, PICKUPS)
            figures.add(told)
    return ours, theirs


@contextmanager
def database(kind: str, server: Postgres) -> Iterator[str | None]:
    """Lend a database of a kind; None means SQLite."""
    if kind == SQLITE:
        yield None
        return
    with server.database() as url:
        yield url


def plain_rows(figures: Figures) -> list[Row]:
    """What one queue did."""
    spread = f"{min(figures.jobs_per_second):.0f} to {max(figures.jobs_per_second):.0f}"
    return [
        Row(f"{figures.name}: jobs", figures.jobs, "/s", spread),
        Row(f"{figures.name}: single enqueues", figures.singles, "/s"),
        Row(f"{figures.name}: pick-up, median", figures.pickup_p50, "ms"),
        Row(f"{figures.name}: pick-up, p99", figures.pickup_p99, "ms"),
    ]


def ratio_rows(kind: str, figures: Figures, theirs: list[Figures]) -> list[Row]:
    """Ours beside the better peer's, figure by figure."""
    jobs = figures.jobs / max(peer.jobs for peer in theirs)
    singles = figures.singles / max(peer.singles for peer in theirs)
    pickup = figures.pickup_p50 / min(peer.pickup_p50 for peer in theirs)
    target = JOBS_TARGET[kind]
    rows = [
        Row(f"{kind}: jobs", jobs, "x", f"at least {target:g}", at_least=target),
        Row(f"{kind}: single enqueues", singles, "x", "at least 1", at_least=SINGLES_TARGET),
        Row(f"{kind}: pick-up, median", pickup, "x", "at most 1", at_most=PICKUP_TARGET),
    ]
    if kind == SQLITE:
        row = Row(
            f"{kind}: pick-up, median",
            figures.pickup_p50,
            "ms",
            f"under {PICKUP_SQLITE_MS:g}",
            at_most=PICKUP_SQLITE_MS,
        )
        rows.append(row)
    return rows


def backlog_rows(kind: str, server: Postgres) -> list[Row]:
    """A claim's p99 with few and with very many jobs waiting."""
    p99 = []
    for waiting in (claims.FEW, claims.MANY):
        with database(kind, server) as database_url:
            p99.append(claims.claim_p99_ms(waiting, database_url))
    few, many = p99
    return [
        Row(f"{kind}: claim p99, {claims.FEW:,}", few, "ms"),
        Row(f"{kind}: claim p99, {claims.MANY:,}", many, "ms"),
        Row(
            f"{kind}: claim p99, grown",
            many / few,
            "x",
            f"at most {BACKLOG_TARGET:g}",
            at_most=BACKLOG_TARGET,
        ),
    ]
