"""Files' contents, in a bucket of ENGRAM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress

from mnemos.engram.errors import BucketNotFoundError
from mnemos.engram.store import ObjectStore

DEFAULT_BUCKET = "mnemos-files"
MAX_LINE_BYTES = 4 * 1024 * 1024


class LineTooLongError(Exception):
    """A line of a file is longer than any job may be."""

    def __init__(self, line: int) -> None:
        super().__init__(f"Line {line} is longer than {MAX_LINE_BYTES >> 20} MiB.")
        self.line = line


class FileObjects:
    """Reads and writes files by their ids. Raises EngramError."""

    def __init__(self, store: ObjectStore, bucket: str = DEFAULT_BUCKET) -> None:
        self._store = store
        self._bucket = bucket

    async def write(self, file_id: str, pieces: AsyncIterator[bytes]) -> None:
        """Store a file, whole or not at all, in place of what has its id."""
        await self._store.ensure_bucket(self._bucket)
        await self._store.put_stream(self._bucket, _key(file_id), pieces)

    def read(self, file_id: str) -> AsyncGenerator[bytes, None]:
        """Yield a file piece by piece; to be closed."""
        return self._store.stream(self._bucket, _key(file_id))

    async def lines(self, file_id: str) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield (number from 1, line) of all lines that are not blank; to be closed.

        Blank lines are not numbered. Raises LineTooLongError.
        """
        number, rest = 0, b""
        async with aclosing(self.read(file_id)) as pieces:
            async for piece in pieces:
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    if line.strip():
                        number += 1
                        yield number, line
                if len(rest) > MAX_LINE_BYTES:
                    raise LineTooLongError(number + 1)
        if rest.strip():
            yield number + 1, rest

    async def remove(self, file_id: str) -> None:
        """Remove a file; one that is not there is no error."""
        with suppress(BucketNotFoundError):
            await self._store.delete(self._bucket, _key(file_id))

    async def write_part(
        self, upload_id: str, part_id: str, pieces: AsyncGenerator[bytes, None]
    ) -> None:
        """Store a part of an upload, whole or not at all."""
        await self._store.ensure_bucket(self._bucket)
        await self._store.put_stream(self._bucket, _part_key(upload_id, part_id), pieces)

    async def joined(self, upload_id: str, part_ids: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """Yield parts one behind the other, piece by piece; to be closed."""
        for part_id in part_ids:
            key = _part_key(upload_id, part_id)
            async with aclosing(self._store.stream(self._bucket, key)) as pieces:
                async for piece in pieces:
                    yield piece

    async def remove_part(self, upload_id: str, part_id: str) -> None:
        """Remove one part; one that is not there is no error."""
        with suppress(BucketNotFoundError):
            await self._store.delete(self._bucket, _part_key(upload_id, part_id))

    async def remove_parts(self, upload_id: str) -> None:
        """Remove whatever there is of an upload."""
        with suppress(BucketNotFoundError):
            await self._store.delete_prefix(self._bucket, f"uploads/{upload_id}")


def _key(file_id: str) -> str:
    return f"files/{file_id}"


def _part_key(upload_id: str, part_id: str) -> str:
    return f"uploads/{upload_id}/{part_id}"
