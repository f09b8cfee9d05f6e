"""One class for every storage: `ObjectStore.from_url("file:///dir")` or `"s3://"`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

import obstore
from pydantic import SecretStr

from .backends import Backend, FolderBackend, S3Backend
from .errors import InvalidKeyError, ObjectNotFoundError, StorageUnavailableError
from .failures import FOREIGN_ERRORS, translate
from .files import (
    CHUNK_BYTES,
    DOWNLOAD_CHUNK_BYTES,
    Expected,
    FileReader,
    OnBytes,
    Regrouped,
    Transferred,
    local_disk_error,
    write_atomically,
)
from .keys import check_bucket, check_key, check_prefix

if TYPE_CHECKING:
    from obstore import ObjectMeta

MODELS_BUCKET = "mnemos-models"
DEFAULT_REGION = "us-east-1"
HEALTH_SECONDS = 10.0
MAX_COPY_BYTES = 5 * 1024**3
"""What S3 copies in one call."""
_PROBE_PREFIX = ".mnemos-probe"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object's name and size; `last_modified` is aware UTC."""

    key: str
    size: int
    last_modified: datetime
    etag: str | None


class ObjectStore:
    """Reads and writes objects of any size without ever holding a whole one in memory.

    Every method checks bucket and key first (InvalidKeyError), raises only EngramError, and may
    be cancelled: what was half written does not show. Holds nothing that must be closed.
    """

    def __init__(self, backend: Backend, models_bucket: str = MODELS_BUCKET) -> None:
        self._backend = backend
        self.models_bucket = check_bucket(models_bucket)
        """Where models lie: `mnemos-models`, or the bucket that an s3:// URL names."""

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        endpoint: str | None = None,
        access_key: str | None = None,
        secret_key: SecretStr | None = None,
        secure: bool = True,
        region: str = DEFAULT_REGION,
    ) -> Self:
        """Open `file:///dir`, `s3://` or `s3://models-bucket`. Asks no server.

        `endpoint` is host:port or a URL; `secure` chooses https where it is host:port. Without
        keys the usual AWS variables count. Raises InvalidKeyError for any other URL and for
        half a pair of keys.
        """
        parts = urlsplit(url)
        surplus = "?" in url or "#" in url  # in a folder's name they are written %3F and %23
        if parts.scheme == "file" and not parts.netloc and parts.path[:1] == "/" and not surplus:
            return cls(FolderBackend(Path(unquote(parts.path))))
        if parts.scheme != "s3" or parts.path not in ("", "/") or surplus:
            raise InvalidKeyError(
                f"{url!r} is no storage: use file:///folder, s3:// or s3://bucket."
            )
        backend = S3Backend(_full_endpoint(endpoint, secure), access_key, secret_key, region)
        return cls(backend, parts.netloc or MODELS_BUCKET)

    @property
    def backend(self) -> Backend:
        """The kind of storage, for what has ways of its own to each."""
        return self._backend

    @property
    def where(self) -> str:
        """Names the storage in a sentence; holds no secret."""
        return self._backend.where

    async def ensure_bucket(self, bucket: str) -> None:
        """Make the bucket unless it is there."""
        await self._backend.ensure_bucket(check_bucket(bucket))

    async def list(self, bucket: str, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects below the folder `prefix`, by key.

        A prefix means a folder: "llama/7b" never brings "llama/7b-chat/…".
        """
        check_bucket(bucket)
        folder = check_prefix(prefix)
        with self._translated(bucket, folder or None):
            store = await self._backend.open(bucket)
            found: list[ObjectInfo] = []
            async for page in obstore.list(store, folder or None):
                found.extend(_info(meta) for meta in page)
        return sorted(found, key=lambda info: info.key)

    async def head(self, bucket: str, key: str) -> ObjectInfo:
        """Return what is known of an object. Raises ObjectNotFoundError."""
        async with self._reading(bucket, key):
            store = await self._backend.open(bucket)
            return _info(await obstore.head_async(store, key))

    async def get_bytes(self, bucket: str, key: str) -> bytes:
        """Return a small object. Raises ObjectNotFoundError."""
        async with self._reading(bucket, key):
            store = await self._backend.open(bucket)
            answer = await obstore.get_async(store, key)
            return bytes(await answer.bytes_async())

    def stream(self, bucket: str, key: str) -> AsyncGenerator[bytes, None]:
        """Yield an object piece by piece; to be closed. Raises ObjectNotFoundError."""
        return self._chunks(bucket, key)

    async def download_file(
        self, bucket: str, key: str, path: Path, on_bytes: OnBytes | None = None
    ) -> Transferred:
        """Stream an object to `path`; return its size and the SHA-256 of what arrived.

        `path` and its folder appear only when all is there and durable. Raises
        ObjectNotFoundError, and LocalDiskError when this machine's disk is the trouble.
        """
        try:
            async with aclosing(self._chunks(bucket, key)) as chunks:
                return await write_atomically(path, chunks, on_bytes)
        except OSError as error:
            raise local_disk_error("write", path, error) from error

    async def put_bytes(self, bucket: str, key: str, data: bytes) -> None:
        """Store `data`, whole or not at all."""
        await self._put(bucket, key, _in_chunks(data))

    async def put_stream(self, bucket: str, key: str, pieces: AsyncIterator[bytes]) -> None:
        """Store what `pieces` yields, whole or not at all; what they raise is raised."""
        await self._put(bucket, key, pieces)

    async def upload_file(
        self,
        bucket: str,
        key: str,
        path: Path,
        on_bytes: OnBytes | None = None,
        expected: Expected | None = None,
    ) -> Transferred:
        """Stream a file up, in parts; return its size and the SHA-256 of what was sent.

        Raises LocalDiskError when the file cannot be read, and ArtifactRefusedError when it is
        not the `expected` one: nothing is then stored. On S3 a cancelled upload may leave
        invisible parts behind, for the bucket's lifecycle rule to clear.
        """
        async with aclosing(FileReader(path, on_bytes, expected)) as reader:
            await self._put(bucket, key, reader)
        return reader.transferred

    async def upload_stream(self, bucket: str, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Store what `chunks` brings, in pieces of any size, whole or not at all.

        What `chunks` raises is raised, and nothing is then stored.
        """
        await self._put(bucket, key, Regrouped(chunks))

    @property
    def copies_at_once(self) -> bool:
        """Whether `copy` moves no byte through this machine, and makes an object of today.

        A folder would link the two, so that the new object looked as old as the other one.
        """
        return isinstance(self._backend, S3Backend)

    async def copy(self, bucket: str, key: str, new_key: str) -> None:
        """Copy an object of at most MAX_COPY_BYTES within a bucket, whole or not at all.

        Raises ObjectNotFoundError.
        """
        check_key(new_key)
        async with self._reading(bucket, key):
            store = await self._backend.open(bucket)
            await obstore.copy_async(store, key, new_key)

    async def delete(self, bucket: str, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with contextlib.suppress(ObjectNotFoundError):
            async with self._reading(bucket, key):
                store = await self._backend.open(bucket)
                await obstore.delete_async(store, key)

    async def delete_prefix(self, bucket: str, prefix: str) -> int:
        """Remove every object below the folder `prefix`; return how many there were."""
        check_key(prefix.removesuffix("/"))
        found = await self.list(bucket, prefix)
        for info in found:
            await self.delete(bucket, info.key)
        return len(found)

    async def health(
        self, bucket: str | None = None, timeout_seconds: float = HEALTH_SECONDS
    ) -> None:
        """Return when the bucket (the models' one) can be listed, within the timeout.

        Raises the EngramError that stands in the way; writes nothing.
        """
        name = check_bucket(bucket or self.models_bucket)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.list(name, _PROBE_PREFIX)
        except TimeoutError as error:
            message = f"{self.where} did not answer within {timeout_seconds:g} s."
            raise StorageUnavailableError(message) from error

    async def _put(self, bucket: str, key: str, chunks: AsyncIterator[bytes]) -> None:
        check_bucket(bucket)
        check_key(key)
        with self._translated(bucket, key):
            await self._backend.put(bucket, key, chunks)

    async def _chunks(self, bucket: str, key: str) -> AsyncGenerator[bytes, None]:
        async with self._reading(bucket, key):
            store = await self._backend.open(bucket)
            answer = await obstore.get_async(store, key)
            async for chunk in answer.stream(min_chunk_size=DOWNLOAD_CHUNK_BYTES):
                yield bytes(chunk)

    @contextlib.asynccontextmanager
    async def _reading(self, bucket: str, key: str) -> AsyncIterator[None]:
        """Translate errors; where an object is missing, tell a missing bucket from it."""
        check_bucket(bucket)
        check_key(key)
        try:
            with self._translated(bucket, key):
                yield
        except ObjectNotFoundError:
            # A HEAD has no body to say which of the two is missing.
            await self.list(bucket, _PROBE_PREFIX)
            raise

    @contextlib.contextmanager
    def _translated(self, bucket: str, key: str | None) -> Iterator[None]:
        try:
            yield
        except FOREIGN_ERRORS as error:
            raise translate(error, self.where, bucket, key) from error


def _full_endpoint(endpoint: str | None, secure: bool) -> str | None:
    if not endpoint:
        return None
    full = endpoint if "://" in endpoint else f"{'https' if secure else 'http'}://{endpoint}"
    parts = urlsplit(full)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise InvalidKeyError(f"endpoint {endpoint!r} is not host:port or a URL without a user.")
    return full.rstrip("/")


def _info(meta: ObjectMeta) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"])


async def _in_chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
