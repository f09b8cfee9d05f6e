"""Who vouches for a model: what is accepted, and every way in which it is not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mnemos.engram.errors import SigningKeyError, UntrustedModelError
from mnemos.engram.signing import PASSWORD_VARIABLE, SignedFile, sign_manifest, verify_manifest

FILES = (SignedFile("config.json", "aa" * 32), SignedFile("weights/w.safetensors", "bb" * 32))


def write_keys(folder: Path, name: str, password: bytes | None = None) -> tuple[Path, Path]:
    """A new pair: the paths of the private and the public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    lock = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, lock))
    public.write_bytes(
        key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, "ours")


def test_one_of_the_trusted_keys_is_enough(keys: tuple[Path, Path], tmp_path: Path) -> None:
    _, other = write_keys(tmp_path, "other")
    bundle = sign_manifest(FILES, "tiny:1", keys[0])
    verify_manifest(FILES, "tiny:1", bundle, [other, keys[1]])
    verify_manifest(reversed(FILES), "tiny:1", json.loads(json.dumps(bundle)), [keys[1]])
    with pytest.raises(UntrustedModelError, match=r"by none of the keys other\.pub"):
        verify_manifest(FILES, "tiny:1", bundle, [other])


@pytest.mark.parametrize("bundle", [None, {}])
def test_an_unsigned_model_is_untrusted(keys: tuple[Path, Path], bundle: Any) -> None:
    with pytest.raises(UntrustedModelError, match="tiny:1 is not signed"):
        verify_manifest(FILES, "tiny:1", bundle, [keys[1]])


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (FILES[:1], "weights/w.safetensors is missing"),
        ((*FILES, SignedFile("more.bin", "cc" * 32)), "more.bin is not signed"),
        ((FILES[0], SignedFile(FILES[1].path, "cc" * 32)), "has another sha256"),
        ((FILES[0], SignedFile("other", FILES[1].sha256)), "other is not signed"),
    ],
)
def test_a_signature_is_for_its_files_only(
    keys: tuple[Path, Path], files: tuple[SignedFile, ...], why: str
) -> None:
    bundle = sign_manifest(FILES, "tiny:1", keys[0])
    with pytest.raises(UntrustedModelError, match=why):
        verify_manifest(files, "tiny:1", bundle, [keys[1]])


def test_a_signature_is_for_its_name_only(keys: tuple[Path, Path]) -> None:
    bundle = sign_manifest(FILES, "tiny:1", keys[0])
    with pytest.raises(UntrustedModelError, match="another model, 'tiny:1'"):
        verify_manifest(FILES, "tiny:2", bundle, [keys[1]])


def with_statement(bundle: Any, change: Callable[[Any], object]) -> Any:
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return bundle


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: with_statement(bundle, lambda told: told["subject"][0].update(name="t:2")),
        lambda bundle: with_statement(
            bundle, lambda told: told.update(predicateType="https://model_signing/Digests/v0.1")
        ),
        lambda bundle: bundle["dsseEnvelope"]["signatures"][0].update(sig="MEUCIQ=="),
        lambda bundle: bundle["dsseEnvelope"].update(signatures=[]),
        lambda bundle: bundle["dsseEnvelope"].update(payloadType="text/plain"),
        lambda bundle: bundle.update(mediaType="text/plain"),
        lambda bundle: bundle.pop("dsseEnvelope"),
        lambda bundle: bundle.pop("verificationMaterial"),
        lambda bundle: bundle["verificationMaterial"]["publicKey"].pop("hint"),
        lambda bundle: bundle["verificationMaterial"]["publicKey"].update(hint=7),
    ],
)
def test_what_was_changed_after_signing_is_untrusted(
    keys: tuple[Path, Path], change: Callable[[Any], object]
) -> None:
    bundle = sign_manifest(FILES, "tiny:1", keys[0])
    change(bundle)
    with pytest.raises(UntrustedModelError, match=r"tampered with|cannot be read|by none"):
        verify_manifest(FILES, "tiny:1", bundle, [keys[1]])


def test_an_encrypted_key_is_opened_by_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = write_keys(tmp_path, "locked", b"open sesame")
    with pytest.raises(SigningKeyError, match=PASSWORD_VARIABLE):
        sign_manifest(FILES, "tiny:1", private)
    monkeypatch.setenv(PASSWORD_VARIABLE, "open sesame")
    verify_manifest(FILES, "tiny:1", sign_manifest(FILES, "tiny:1", private), [public])


def test_files_that_are_no_keys_are_named(keys: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = sign_manifest(FILES, "tiny:1", keys[0])
    wrong = tmp_path / "wrong.pem"
    with pytest.raises(SigningKeyError, match=r"wrong\.pem: No such file"):
        verify_manifest(FILES, "tiny:1", bundle, [wrong])
    signing_key = rsa.generate_private_key(65537, 2048).private_bytes(
        pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()
    )
    for content in (b"not a key", signing_key):
        wrong.write_bytes(content)
        with pytest.raises(SigningKeyError, match="no public key"):
            verify_manifest(FILES, "tiny:1", bundle, [keys[1], wrong])
        with pytest.raises(SigningKeyError, match="no private key"):
            sign_manifest(FILES, "tiny:1", wrong)
    with pytest.raises(SigningKeyError, match="No public key is named"):
        verify_manifest(FILES, "tiny:1", bundle, [])
