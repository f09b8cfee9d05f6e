"""Turns what obstore and the disk raise into ENGRAM's own errors, one sentence each."""

from __future__ import annotations

import re

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from .errors import (
    AccessDeniedError,
    BucketNotFoundError,
    EngramError,
    InvalidKeyError,
    ObjectNotFoundError,
    StorageUnavailableError,
)

FOREIGN_ERRORS = (BaseError, OSError)
"""What an obstore call may raise; its NotFoundError is the built-in FileNotFoundError."""

_S3_CODE = re.compile(r"<Code>([A-Za-z0-9]+)</Code>")
_S3_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_STATUS = re.compile(r"status code: (\d{3})")
_DENIED_CODES = {
    "InvalidAccessKeyId": "the access key is unknown",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}


def translate(error: Exception, where: str, bucket: str, key: str | None) -> EngramError:
    """Say in one sentence what happened at the storage `where` to `key` of `bucket`."""
    text = str(error)
    code = _found(_S3_CODE, text)
    status = _found(_STATUS, text)
    if code == "NoSuchBucket":
        return bucket_not_found(where, bucket)
    if code in {"InvalidBucketName", "KeyTooLongError"}:
        return InvalidKeyError(f"{where} does not take {bucket}/{key or ''} as a name.")
    if _is_denial(error, status):
        return _denied(where, bucket, code)
    if isinstance(error, FileNotFoundError) or status == "404":
        return object_not_found(bucket, key)
    return StorageUnavailableError(f"{where} {_what_failed(error, text, status)}.")


def bucket_not_found(where: str, bucket: str) -> BucketNotFoundError:
    """The sentence for a missing bucket."""
    return BucketNotFoundError(f"{where} has no bucket {bucket!r}.")


def object_not_found(bucket: str, key: str | None) -> ObjectNotFoundError:
    """The sentence for a missing object."""
    return ObjectNotFoundError(f"Bucket {bucket!r} has no object {key!r}.")


def _is_denial(error: Exception, status: str) -> bool:
    denials = (PermissionDeniedError, UnauthenticatedError, PermissionError)
    return isinstance(error, denials) or status in {"401", "403"}


def _denied(where: str, bucket: str, code: str) -> AccessDeniedError:
    reason = _DENIED_CODES.get(code, "the keys are wrong or lack the right")
    return AccessDeniedError(f"{where} denies access to bucket {bucket!r}: {reason}.")


def _what_failed(error: Exception, text: str, status: str) -> str:
    if "error sending request" in text or "tcp connect" in text:
        return "cannot be reached"
    if "timed out" in text or "TimedOut" in text:
        return "did not answer in time"
    if status:
        return f"answered {status}: {_found(_S3_MESSAGE, text) or 'no reason given'}".rstrip(".")
    if isinstance(error, OSError) and error.strerror:
        return f"failed: {error.strerror}"
    return f"failed: {text.splitlines()[0] if text else type(error).__name__}".rstrip(".")


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match.group(1) if match else ""
