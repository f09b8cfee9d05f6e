"""Signatures of models: a key vouches for a list of files and for the name they are given.

Made and checked with model-signing (sigstore's library) by local elliptic-curve keys, so that no
server is asked. What is signed is the in-toto statement of its format v1.0, over every file's
SHA-256; its subject is called `family:version`, so that a signed model cannot be registered under
another name. The files themselves are not read: whoever loads them compares them with the same
SHA-256.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from .errors import SigningKeyError, UntrustedModelError
from .extras import require_extra

EXTRA = "signing"
PASSWORD_VARIABLE = "MNEMOS_SIGNING_KEY_PASSWORD"  # noqa: S105 - the name of a variable
_STATEMENT = "https://model_signing/signature/v1.0"
_MAX_KEY_BYTES = 64 * 1024
_FILE = "signature.json"


class SignedFile(NamedTuple):
    """One file of a model: its path in the model and its SHA-256 in hex."""

    path: str
    sha256: str


Bundle = dict[str, Any]
"""A sigstore bundle as JSON: what GENOME keeps as the model's `signature`."""


def sign_manifest(files: Iterable[SignedFile], model: str, key: Path) -> Bundle:
    """Return a signature of `files` as the model `family:version`, by a private key. Blocks.

    `key` is a PEM file on the curve P-256, P-384 or P-521; if it is encrypted, its password is in
    MNEMOS_SIGNING_KEY_PASSWORD. Raises SigningKeyError and MissingExtraError.
    """
    require_signing()
    from model_signing import signing

    _read_key(key)
    password = os.environ.get(PASSWORD_VARIABLE)
    try:
        config = signing.Config().use_elliptic_key_signer(
            private_key=key, password=password.encode() if password else None
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise SigningKeyError(
            f"{key} is no private key that signs models: it must be PEM, elliptic-curve (P-256, "
            f"P-384 or P-521), and if it is encrypted, {PASSWORD_VARIABLE} must open it."
        ) from error
    config.set_hashing_config(_Listed(files, model))
    with TemporaryDirectory(prefix="mnemos-sign-") as folder:
        written = Path(folder) / _FILE
        config.sign(Path(folder), written)
        bundle: Bundle = json.loads(written.read_bytes())
    return bundle


def verify_manifest(
    files: Iterable[SignedFile], model: str, bundle: Mapping[str, Any] | None, keys: Sequence[Path]
) -> None:
    """Return if one of the public keys vouches for exactly these files under this name. Blocks.

    Raises UntrustedModelError, which says why not; SigningKeyError for a file that holds no
    public key; MissingExtraError.
    """
    if not bundle:
        raise UntrustedModelError(f"{model} is not signed.")
    require_signing()
    check_public_keys(keys)
    listed = tuple(files)
    if not _has_hint(bundle):
        raise UntrustedModelError(f"The signature of {model} cannot be read.")
    for key in keys:
        if _verify(listed, model, bundle, key):
            break
    else:
        names = ", ".join(key.name for key in keys)
        raise UntrustedModelError(f"The signature of {model} is by none of the keys {names}.")
    signed_as = _signed_as(bundle)
    if signed_as != model:
        raise UntrustedModelError(
            f"The signature of {model} is that of another model, {signed_as[:200]!r}."
        )


def check_public_keys(keys: Sequence[Path]) -> None:
    """Return if every file holds a public key that can be verified with. Blocks.

    Raises SigningKeyError, also for no key at all, and MissingExtraError.
    """
    require_signing()
    from model_signing import verifying

    if not keys:
        raise SigningKeyError("No public key is named that could vouch for a model.")
    for key in keys:
        _read_key(key)
        try:
            verifying.Config().use_elliptic_key_verifier(public_key=key)
        except (ValueError, TypeError, AttributeError) as error:
            raise SigningKeyError(
                f"{key} is no public key that verifies models: it must be PEM and "
                "elliptic-curve (P-256, P-384 or P-521)."
            ) from error


def require_signing() -> None:
    """Raise MissingExtraError unless the packages that sign are installed."""
    require_extra("model_signing", EXTRA, "Signatures of models")
    require_extra("OpenSSL", EXTRA, "Signatures of models")


def _verify(files: Sequence[SignedFile], model: str, bundle: Mapping[str, Any], key: Path) -> bool:
    """Whether the signature is by this key, and right; False if it is by another one."""
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    config.set_hashing_config(_Listed(files, model))
    with TemporaryDirectory(prefix="mnemos-verify-") as folder:
        written = Path(folder) / _FILE
        written.write_text(json.dumps(dict(bundle)), encoding="utf-8")
        try:
            config.verify(Path(folder), written)
        except InvalidSignature as error:
            raise UntrustedModelError(
                f"The signature of {model} was tampered with: it does not fit what it signs."
            ) from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            text = str(error)
            if text.startswith("Key mismatch"):
                return False
            if text.startswith("Signature mismatch"):
                raise UntrustedModelError(
                    f"The signature of {model} is for other files than those registered: "
                    f"{_difference(files, bundle)}."
                ) from error
            raise UntrustedModelError(f"The signature of {model} cannot be read.") from error
    return True


class _Listed:
    """Stands for the library's hashing of a folder: the files are hashed already."""

    def __init__(self, files: Iterable[SignedFile], model: str) -> None:
        self._files = files
        self._model = model

    def hash(self, _folder: Path, *, files_to_hash: object = None) -> Any:
        """Return the list as the library's manifest."""
        from model_signing import manifest
        from model_signing._hashing.hashing import Digest

        how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
        serialization = manifest.SerializationType.from_args(how)
        items = [
            serialization.new_item(file.path, Digest("sha256", bytes.fromhex(file.sha256)))
            for file in self._files
        ]
        return manifest.Manifest(self._model, items, serialization)

    def add_ignored_paths(self, **_: object) -> None:
        """No file is ignored, whatever a signature says."""


def _read_key(key: Path) -> bytes:
    try:
        with key.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise SigningKeyError(f"Cannot read the key {key}: {error.strerror}.") from error


def _has_hint(bundle: Mapping[str, Any]) -> bool:
    """Whether the bundle says by which key it is; all that this version makes do."""
    try:
        return isinstance(bundle["verificationMaterial"]["publicKey"]["hint"], str)
    except (KeyError, TypeError):
        return False


def _statement(bundle: Mapping[str, Any]) -> dict[str, Any]:
    try:
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True))
    except (ValueError, KeyError, TypeError, binascii.Error):
        return {}
    return statement if isinstance(statement, dict) else {}


def _signed_as(bundle: Mapping[str, Any]) -> str:
    """The name that was signed; empty where none was. Only after the signature was verified."""
    statement = _statement(bundle)
    if statement.get("predicateType") != _STATEMENT:
        return ""
    return str(statement["subject"][0]["name"])


def _difference(files: Sequence[SignedFile], bundle: Mapping[str, Any]) -> str:
    try:
        resources = _statement(bundle)["predicate"]["resources"]
        signed = {str(each["name"]): str(each["digest"]) for each in resources}
    except (KeyError, TypeError):
        return "they differ"
    registered = {file.path: file.sha256 for file in files}
    for path in sorted(signed.keys() | registered.keys()):
        if path not in registered:
            return f"{path[:200]} is missing"
        if path not in signed:
            return f"{path[:200]} is not signed"
        if signed[path] != registered[path]:
            return f"{path[:200]} has another sha256"
    return "they differ"
