"""Answers that workers put into ENGRAM because a message could not carry them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from mnemos.engram.errors import EngramError
from mnemos.engram.store import ObjectStore

DEFAULT_BUCKET = "mnemos-results"
KIND_HEADER = "Mnemos-Result"
INLINE, STORED, REFERENCE = "inline", "stored", "reference"
"""What the header says: the answer is from CORTEX's database; from ENGRAM; only where it lies."""
_MOST_CHARACTERS = 4096
"""More than a reference has."""
REFERENCE_PREFIX = '{"result_reference"'
"""How the stored result of a job begins whose answer lies in ENGRAM."""
_FOLDER = "jobs"


class _Where(msgspec.Struct, forbid_unknown_fields=True):
    engram: str
    size_bytes: int
    sha256: str


class _Reference(msgspec.Struct, forbid_unknown_fields=True):
    result_reference: _Where


class DamagedResultError(EngramError):
    """The object is not what its worker reported."""

    code = "result_damaged"


@dataclass(frozen=True, slots=True)
class StoredResult:
    """Where an answer lies, how many bytes of JSON it has, and their SHA-256 in hex."""

    bucket: str
    key: str
    size_bytes: int
    sha256: str


def read_reference(result: str, job_id: str) -> StoredResult | None:
    """Return what a job's stored result refers to; None where it is the answer itself.

    A model may answer whatever it likes, even something that looks like a reference: only an
    object that the job's own attempts could have written is one.
    """
    if not result.startswith(REFERENCE_PREFIX) or len(result) > _MOST_CHARACTERS:
        return None
    try:
        told = msgspec.json.decode(result, type=_Reference).result_reference
    except msgspec.DecodeError:
        return None
    bucket, _, key = told.engram.partition("/")
    if not re.fullmatch(rf"{_FOLDER}/{re.escape(job_id)}/[0-9]+/result\.json", key):
        return None
    return StoredResult(bucket, key, told.size_bytes, told.sha256)


class ResultObjects:
    """The bucket of big results."""

    def __init__(self, store: ObjectStore, bucket: str = DEFAULT_BUCKET) -> None:
        self._store = store
        self.bucket = bucket

    def holds(self, stored: StoredResult) -> bool:
        """Whether it is in this bucket; others are none of ours to read."""
        return stored.bucket == self.bucket

    async def check(self, stored: StoredResult) -> None:
        """Return if the object is there in its size. Raises EngramError."""
        size = (await self._store.head(stored.bucket, stored.key)).size
        if size != stored.size_bytes:
            raise _damaged(stored, f"it has {size} bytes, not {stored.size_bytes}")

    async def read(self, stored: StoredResult) -> AsyncGenerator[bytes, None]:
        """Yield the answer; the last piece only once all is known to be what was reported.

        Raises EngramError, DamagedResultError.
        """
        digest, size = hashlib.sha256(), 0
        held = b""
        async with aclosing(self._store.stream(stored.bucket, stored.key)) as pieces:
            async for piece in pieces:
                digest.update(piece)
                size += len(piece)
                if held:
                    yield held
                held = piece
        if (size, digest.hexdigest()) != (stored.size_bytes, stored.sha256):
            raise _damaged(stored, "its sha256 is another")
        yield held

    async def delete_job(self, job_id: str) -> int:
        """Remove what all attempts at a job have stored, those too whose answer did not count.

        Returns how many objects there were; for a job whose answer was small that is none.
        Raises EngramError.
        """
        return await self._store.delete_prefix(self.bucket, f"{_FOLDER}/{job_id}")


def _damaged(stored: StoredResult, reason: str) -> DamagedResultError:
    return DamagedResultError(f"The answer at {stored.bucket}/{stored.key} is damaged: {reason}.")
