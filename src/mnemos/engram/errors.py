"""Everything that can go wrong with object storage, as one tree.

    EngramError
    ├── InvalidKeyError           invalid_key          a bucket, key or name that is not allowed
    ├── ArtifactRefusedError      invalid_artifact     a folder that must not be published
    ├── ObjectNotFoundError       object_not_found     the bucket is there, the object is not
    ├── BucketNotFoundError       bucket_not_found     create it with ensure_bucket()
    ├── DamagedObjectError        damaged_object       not the bytes that were promised
    ├── AccessDeniedError         access_denied        the keys are wrong or lack a right
    ├── StorageUnavailableError   storage_unavailable  out of reach, full or failing: try again
    ├── CacheFullError            cache_full           what could make room is in use: try again
    │   └── OverBudgetError       cache_full           it would not fit an empty cache either
    ├── UntrustedModelError       untrusted            no trusted key vouches for the files
    ├── SigningKeyError           invalid_key_file     a file that holds no key for signatures
    ├── MissingExtraError         missing_extra        a package that only some need is missing
    └── LocalDiskError            local_disk           this machine's disk, not the storage

May the same call be sent again? (`retryable`) Whose fault is it? (`code`)
"""

from __future__ import annotations

from typing import ClassVar


class EngramError(Exception):
    """The root. `message` is one sentence for a person."""

    code: ClassVar[str] = "storage_unavailable"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidKeyError(EngramError):
    """A bucket, key, name or URL that is not allowed."""

    code = "invalid_key"


class ArtifactRefusedError(EngramError):
    """A folder that holds something a model must not bring along."""

    code = "invalid_artifact"


class ObjectNotFoundError(EngramError):
    """The bucket has no such object."""

    code = "object_not_found"


class BucketNotFoundError(EngramError):
    """The storage has no such bucket."""

    code = "bucket_not_found"


class DamagedObjectError(EngramError):
    """An object whose bytes are not those of the manifest, or that changes while it is read."""

    code = "damaged_object"


class AccessDeniedError(EngramError):
    """The storage refused the keys, or what they may do."""

    code = "access_denied"


class StorageUnavailableError(EngramError):
    """The storage is out of reach, full, or failed in a way that may pass."""

    code = "storage_unavailable"
    retryable = True


class CacheFullError(EngramError):
    """The models in use leave no room for another on this machine's disk."""

    code = "cache_full"
    retryable = True


class OverBudgetError(CacheFullError):
    """A model that would not fit this machine's cache even if it were empty."""

    retryable = False


class UntrustedModelError(EngramError):
    """A model's signature is missing, wrong, of another model, or by a key that is not trusted."""

    code = "untrusted"


class SigningKeyError(EngramError):
    """A file that should hold a key for signatures cannot be read, or holds none."""

    code = "invalid_key_file"


class MissingExtraError(EngramError):
    """A package that only some need is not installed; the sentence says how to install it."""

    code = "missing_extra"


class LocalDiskError(EngramError):
    """A file on this machine could not be read or written; `errno` says why."""

    code = "local_disk"

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


def first_error(group: BaseExceptionGroup[EngramError]) -> EngramError:
    """Return one of the errors that a task group ended with: callers meet no groups."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, EngramError)
    return first
