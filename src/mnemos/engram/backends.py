"""The two kinds of storage: a folder of this machine, and whatever speaks S3."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import httpx2
import obstore
from obstore.store import LocalStore, S3Store
from pydantic import SecretStr

from .errors import AccessDeniedError, InvalidKeyError, StorageUnavailableError
from .failures import FOREIGN_ERRORS, bucket_not_found, translate
from .files import CHUNK_BYTES, write_atomically

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

UPLOAD_CONCURRENCY = 4
_CONNECT_SECONDS = 5
_STALL_SECONDS = 120  # a part of CHUNK_BYTES has this long to go up, whatever the line
_WHOLE_TRANSFER_HOURS = 24  # a big model on a thin line; a stall ends it long before
_CREATE_BUCKET_SECONDS = 30
_SIGNATURE_SECONDS = 300


class Backend(Protocol):
    """What ObjectStore needs to know about a kind of storage."""

    where: str
    """Names the storage in sentences."""

    async def open(self, bucket: str) -> LocalStore | S3Store:
        """Return the bucket's store. Raises BucketNotFoundError where that is cheap to know."""
        ...

    async def ensure_bucket(self, bucket: str) -> None:
        """Make the bucket unless it is there. Raises EngramError."""
        ...

    async def put(self, bucket: str, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Store an object whole or not at all. Raises what obstore, the disk or `chunks` do."""
        ...


class FolderBackend:
    """Buckets are folders of one folder. What is put is on the disk when the call returns."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.where = f"The folder {root}"

    async def open(self, bucket: str) -> LocalStore:
        """Return the bucket's store. Raises BucketNotFoundError."""
        folder = self._root / bucket
        return await asyncio.to_thread(self._open, folder, bucket)

    async def folder(self, bucket: str) -> Path:
        """Return the folder that is the bucket. Raises BucketNotFoundError."""
        await self.open(bucket)
        return self._root / bucket

    def _open(self, folder: Path, bucket: str) -> LocalStore:
        if not folder.is_dir():
            raise bucket_not_found(self.where, bucket)
        return LocalStore(folder, automatic_cleanup=True)

    async def ensure_bucket(self, bucket: str) -> None:
        """Make the bucket's folder unless it is there."""
        folder = self._root / bucket
        try:
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise translate(error, self.where, bucket, None) from error

    async def put(self, bucket: str, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Store an object: temporary file, fsync, rename (obstore's own put does not sync)."""
        await self.open(bucket)
        await write_atomically(self._root / bucket / key, chunks)


class S3Backend:
    """Anything that speaks S3: MinIO, SeaweedFS, S3 itself."""

    def __init__(
        self,
        endpoint: str | None,
        access_key: str | None,
        secret_key: SecretStr | None,
        region: str,
    ) -> None:
        if (access_key is None) != (secret_key is None):
            raise InvalidKeyError("Give the access key and the secret key, or neither.")
        self._endpoint = endpoint
        # Anywhere but on AWS itself nobody hands out keys: asking for them would only take time.
        self._anonymous = endpoint is not None and "AWS_ACCESS_KEY_ID" not in os.environ
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._stores: dict[str, S3Store] = {}
        self.where = f"The object storage at {endpoint or 'AWS S3'}"

    async def open(self, bucket: str) -> S3Store:
        """Return the bucket's store, without asking the server."""
        if bucket not in self._stores:
            self._stores[bucket] = self._build(bucket)
        return self._stores[bucket]

    def _build(self, bucket: str) -> S3Store:
        config: S3Config = {"bucket": bucket, "region": self._region}
        if self._endpoint is not None:
            config["endpoint"] = self._endpoint
        if self._access_key is not None and self._secret_key is not None:
            config["access_key_id"] = self._access_key
            config["secret_access_key"] = self._secret_key.get_secret_value()
        elif self._anonymous:
            config["skip_signature"] = True
        plain = self._endpoint is not None and self._endpoint.startswith("http://")
        return S3Store(
            config=config, client_options=_client_options(plain), retry_config=_retries()
        )

    async def ensure_bucket(self, bucket: str) -> None:
        """Make the bucket unless it is there; needs no right to create where it is there."""
        store = await self.open(bucket)
        if await self._exists(store):
            return
        try:
            url = await obstore.sign_async(store, "PUT", "", timedelta(seconds=_SIGNATURE_SECONDS))
        except FOREIGN_ERRORS as error:
            raise AccessDeniedError(
                f"{self.where} has no bucket {bucket!r}, and without keys it cannot be made."
            ) from error
        try:
            async with httpx2.AsyncClient(timeout=_CREATE_BUCKET_SECONDS) as client:
                answer = await client.put(url, content=self._location())
        except httpx2.HTTPError as error:
            raise StorageUnavailableError(f"{self.where} cannot be reached.") from error
        if answer.is_success or "<Code>BucketAlreadyOwnedByYou</Code>" in answer.text:
            return
        refusal = OSError(f"status code: {answer.status_code} {answer.text}")
        raise translate(refusal, self.where, bucket, None)

    async def _exists(self, store: S3Store) -> bool:
        """False when the storage says the bucket is missing; what else it says, creating will."""
        try:
            await obstore.list_with_delimiter_async(store, ".mnemos-probe")
        except FOREIGN_ERRORS:
            return False
        return True

    def _location(self) -> bytes:
        if self._endpoint is not None or self._region == "us-east-1":
            return b""
        return (
            '<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<LocationConstraint>{self._region}</LocationConstraint></CreateBucketConfiguration>"
        ).encode()

    async def put(self, bucket: str, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Store an object, in parts when it is big; an upload that fails shows nothing."""
        store = await self.open(bucket)
        first = await anext(chunks, b"")
        if len(first) < CHUNK_BYTES:
            await obstore.put_async(store, key, first, use_multipart=False)
            return
        await obstore.put_async(
            store,
            key,
            _Rejoined(first, chunks),
            chunk_size=CHUNK_BYTES,
            max_concurrency=UPLOAD_CONCURRENCY,
        )


class _Rejoined:
    """The first chunk, then the rest. A class, for the reason that FileReader gives."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes]) -> None:
        self._first: bytes | None = first
        self._rest = rest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, None
        return first if first is not None else await anext(self._rest)


def _client_options(plain_http: bool) -> ClientConfig:
    return {
        "allow_http": plain_http,
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=_STALL_SECONDS),
        "timeout": timedelta(hours=_WHOLE_TRANSFER_HOURS),
    }


def _retries() -> RetryConfig:
    return {
        "max_retries": 3,
        "retry_timeout": timedelta(seconds=30),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=2),
            "base": 2,
        },
    }
