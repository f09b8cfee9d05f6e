"""What the two kinds of storage have in common: links that bring parts of objects."""

from __future__ import annotations

from typing import Protocol

from ..errors import DamagedObjectError
from .target import Part, Target


class Interrupted(Exception):
    """A part did not come whole, in a way that may pass; `after_seconds` is the storage's wish."""

    def __init__(self, message: str, after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.after_seconds = after_seconds


class WholeOnly(Exception):
    """The storage answers with the whole object, whatever range it is asked for."""


class Link(Protocol):
    """One thread's way to the storage."""

    def fetch(self, part: Part) -> None:
        """Bring what the part lacks and write it. Blocks.

        Raises Interrupted, with what came kept in the part; WholeOnly; or EngramError for what
        trying again does not mend.
        """
        ...

    def abort(self) -> None:
        """Make a `fetch` in another thread end soon, and every later one."""
        ...

    def close(self) -> None:
        """Give back what it holds. Idempotent."""
        ...


class Source(Protocol):
    """A bucket of a storage."""

    where: str
    """Names the storage in sentences."""

    def link(self) -> Link:
        """Return a new link; nothing is opened yet."""
        ...


def check_identity(target: Target, identity: object) -> None:
    """Raise DamagedObjectError unless the object is still the one whose bytes came first."""
    if identity is not None and target.identity not in (None, identity):
        raise changed(target)


def check_size(target: Target, size: int) -> None:
    """Raise DamagedObjectError unless the object has the size that was promised."""
    wanted = target.wanted
    if size != wanted.size:
        raise DamagedObjectError(
            f"{wanted.key} is not what it should be: it has {size} bytes, not {wanted.size}."
        )


def changed(target: Target) -> DamagedObjectError:
    """The sentence for an object that somebody replaced."""
    return DamagedObjectError(f"{target.wanted.key} changed while it was fetched.")
