"""ENGRAM object storage client."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import structlog
from pydantic import SecretStr

from mnemos.engram.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    CacheFullError,
    DamagedObjectError,
    EngramError,
    InvalidKeyError,
    LocalDiskError,
    ObjectNotFoundError,
    OverBudgetError,
)
from mnemos.engram.fetch import CONNECTIONS, WantedFile, fetch_files
from mnemos.engram.store import MODELS_BUCKET, ObjectStore

from ..errors import (
    ArtifactCorruptError,
    ConfigurationError,
    DiskInUseError,
    InsufficientResourcesError,
    InvalidInputError,
    NeuronError,
    StorageUnavailableError,
)

logger = structlog.get_logger(__name__)

PARALLEL_DOWNLOADS = 4


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of an artifact, as the manifest names it; an empty sha256 is not checked."""

    path: str
    size: int
    sha256: str = ""


class EngramClient:
    """Reads models' files from ENGRAM, and writes big results to it.

    ENGRAM is S3 at host:port or a URL, or a folder at file:///dir. Nothing is asked until the
    first call. Errors are NeuronErrors that name the storage.
    """

    def __init__(
        self,
        endpoint: str,
        access_key: str | SecretStr,
        secret_key: str | SecretStr,
        secure: bool = False,
    ) -> None:
        try:
            self.store = _open(endpoint, access_key, secret_key, secure)
        except InvalidKeyError as error:
            raise ConfigurationError(f"NEURON_MINIO_ENDPOINT: {error.message}") from error
        self.models_bucket = MODELS_BUCKET
        logger.info("engram_client_initialized", endpoint=endpoint, bucket=self.models_bucket)

    async def health_check(self) -> None:
        """Return when the models' bucket can be read.

        Raises:
            StorageUnavailableError: it cannot, and why.
        """
        try:
            await self.store.health(self.models_bucket)
        except EngramError as error:
            logger.warning("engram_health_check_failed", error=error.message)
            raise StorageUnavailableError(error.message) from error
        logger.info("engram_health_check_passed")

    async def download_object(self, object_path: str, local_dir: Path) -> None:
        """Download everything below `object_path` to `local_dir`, unverified."""
        with translated(object_path):
            found = await self.store.list(self.models_bucket, object_path)
        if not found:
            raise ArtifactCorruptError(f"ENGRAM holds no file below {object_path}")
        folder = object_path.rstrip("/") + "/"
        files = [RemoteFile(info.key.removeprefix(folder), info.size) for info in found]
        await self.download_files(object_path, files, local_dir)

    async def fetch(
        self,
        bucket: str | None,
        files: Sequence[WantedFile],
        on_bytes: Callable[[int], None] | None = None,
        *,
        connections: int = CONNECTIONS,
    ) -> None:
        """Bring objects to their paths, verified and durable; what has come is not fetched again.

        `bucket` None: that of the models. Raises EngramErrors, as fetch_files does: the model
        cache tells them apart.
        """
        where = bucket or self.models_bucket
        await fetch_files(self.store, where, files, on_bytes=on_bytes, connections=connections)

    async def fingerprint(self, bucket: str | None, prefix: str) -> str:
        """Return what changes whenever an object below `prefix` does.

        Raises:
            StorageUnavailableError: ENGRAM cannot be reached, or does not let this worker list.
        """
        with translated(prefix):
            found = await self.store.list(bucket or self.models_bucket, prefix)
        told = [(info.key, info.size, info.etag, info.last_modified.isoformat()) for info in found]
        return sha256(repr(told).encode()).hexdigest()

    async def download_files(
        self,
        object_path: str,
        files: Sequence[RemoteFile],
        local_dir: Path,
        on_bytes: Callable[[int], None] | None = None,
        bucket: str | None = None,
    ) -> None:
        """Download the named files, a few at once, each checked while it arrives.

        `on_bytes` is told how many bytes came; it may be called from any thread. On failure or
        cancellation the files that came stay in `local_dir` for its owner to remove.

        Raises:
            ArtifactCorruptError: a file is missing, or is not what the manifest says.
            StorageUnavailableError, InsufficientResourcesError: ENGRAM or this disk failed.
        """
        gate = asyncio.Semaphore(PARALLEL_DOWNLOADS)
        where = bucket or self.models_bucket

        async def fetch(file: RemoteFile) -> None:
            async with gate:
                await self._download_one(where, object_path, file, local_dir, on_bytes)

        try:
            async with asyncio.TaskGroup() as group:
                for file in files:
                    group.create_task(fetch(file))
        except ExceptionGroup as failed:
            raise _first_neuron_error(failed) from failed
        logger.info("object_downloaded", object_path=object_path, local_dir=str(local_dir))

    async def read_object(self, bucket: str, key: str, max_bytes: int) -> bytes:
        """An object that a job names, whole.

        Raises:
            InvalidInputError: there is none, its name is not allowed, or it is larger.
            StorageUnavailableError: ENGRAM failed.
        """
        with _translated_for_job(bucket, key):
            size = (await self.store.head(bucket, key)).size
            if size > max_bytes:
                raise InvalidInputError(
                    f"{bucket}/{key} has {size} bytes, more than the {max_bytes} that are left"
                )
            return await self.store.get_bytes(bucket, key)

    async def write_object(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object whole or not at all; the bucket is made if it is missing.

        Raises:
            StorageUnavailableError: ENGRAM failed in a way that may pass.
            InsufficientResourcesError: this worker may not write there.
        """
        with _translated_for_writing(bucket):
            try:
                await self.store.put_bytes(bucket, key, data)
            except BucketNotFoundError:
                await self.store.ensure_bucket(bucket)
                await self.store.put_bytes(bucket, key, data)

    async def _download_one(
        self,
        bucket: str,
        object_path: str,
        file: RemoteFile,
        local_dir: Path,
        on_bytes: Callable[[int], None] | None,
    ) -> None:
        key = f"{object_path.rstrip('/')}/{file.path}"
        with translated(key):
            came = await self.store.download_file(bucket, key, local_dir / file.path, on_bytes)
        if came.size != file.size:
            raise ArtifactCorruptError(
                f"{key} has {came.size} bytes in ENGRAM, not the {file.size} of its manifest"
            )
        if file.sha256 and came.sha256 != file.sha256:
            raise ArtifactCorruptError(
                f"{key} in ENGRAM is damaged: its sha256 is {came.sha256}, not {file.sha256}"
            )


def _open(
    endpoint: str, access_key: str | SecretStr, secret_key: str | SecretStr, secure: bool
) -> ObjectStore:
    if endpoint.startswith("file://"):
        return ObjectStore.from_url(endpoint)
    user = access_key.get_secret_value() if isinstance(access_key, SecretStr) else access_key
    secret = secret_key if isinstance(secret_key, SecretStr) else SecretStr(secret_key)
    return ObjectStore.from_url(
        "s3://",
        endpoint=endpoint,
        access_key=user or None,
        secret_key=secret if secret.get_secret_value() else None,
        secure=secure,
    )


@contextlib.contextmanager
def translated(key: str) -> Iterator[None]:
    """Say as a worker does what ENGRAM, or the cache of its files, says about `key`."""
    try:
        yield
    except ObjectNotFoundError as error:
        raise ArtifactCorruptError(
            f"ENGRAM lacks a file of {key} that the manifest names: {error.message}"
        ) from error
    except (InvalidKeyError, DamagedObjectError) as error:
        raise ArtifactCorruptError(error.message) from error
    except OverBudgetError as error:
        raise InsufficientResourcesError(error.message) from error
    except CacheFullError as error:
        raise DiskInUseError(error.message) from error
    except LocalDiskError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InsufficientResourcesError(error.message) from error
        raise NeuronError(error.message) from error
    except EngramError as error:
        logger.error("download_object_failed", object_path=key, error=error.message)
        raise StorageUnavailableError(error.message) from error


@contextlib.contextmanager
def _translated_for_job(bucket: str, key: str) -> Iterator[None]:
    try:
        yield
    except (ObjectNotFoundError, BucketNotFoundError) as error:
        raise InvalidInputError(f"ENGRAM holds no {bucket}/{key}") from error
    except InvalidKeyError as error:
        raise InvalidInputError(error.message) from error
    except EngramError as error:
        logger.error("read_object_failed", bucket=bucket, key=key, error=error.message)
        raise StorageUnavailableError(error.message) from error


@contextlib.contextmanager
def _translated_for_writing(bucket: str) -> Iterator[None]:
    try:
        yield
    except (AccessDeniedError, InvalidKeyError) as error:
        raise InsufficientResourcesError(
            f"this worker cannot write to the bucket {bucket}: {error.message}"
        ) from error
    except EngramError as error:
        raise StorageUnavailableError(error.message) from error


def _first_neuron_error(group: ExceptionGroup[Exception]) -> Exception:
    for error in group.exceptions:
        if isinstance(error, NeuronError):
            return error
    return group.exceptions[0]
