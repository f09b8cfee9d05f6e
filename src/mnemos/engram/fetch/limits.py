"""How patient a fetch is, and how it cuts its work up."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of a fetch; tests make them small."""

    part_bytes: int = 16 * MIB
    """Asked for in one request; also what the hashing waits for."""
    buffer_bytes: int = MIB
    """Read at once, one buffer per connection; a cancel waits for no more than this."""
    hashers: int = 4
    """Files hashed at the same time, behind the writing."""
    sync_bytes: int = 128 * MIB
    """Written to a file before the disk is told to begin, so that the last fsync is short."""
    connect_seconds: float = 5.0
    stall_seconds: float = 15.0
    """A connection that brings nothing for so long is given up for a fresh one."""
    tries: int = 8
    """So many failures of one part in a row without a byte of progress end the fetch."""
    first_pause_seconds: float = 0.1
    longest_pause_seconds: float = 5.0
    """Pauses double between tries; a storage that names its own (Retry-After) gets up to…"""
    longest_asked_pause_seconds: float = 30.0
    stop_seconds: float = 30.0
    """A cancel waits so long for threads that hang in the disk, and then no longer."""
