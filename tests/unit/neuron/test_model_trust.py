"""A worker that takes only what its operator trusts: before any byte is downloaded or run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec

from mnemos.engram.fetch import CONNECTIONS, WantedFile
from mnemos.engram.signing import SignedFile, sign_manifest
from neuron.clients.engram_client import EngramClient
from neuron.config import Settings
from neuron.errors import (
    ConfigurationError,
    ErrorCode,
    InvalidInputError,
    StorageUnavailableError,
    UntrustedModelError,
)
from neuron.services.model_loader import ModelLoaderService

DATA = b"weights"
SHA256 = hashlib.sha256(DATA).hexdigest()
FILES = [SignedFile("model.safetensors", SHA256)]


class Genome:
    """Says of tiny:1 what it is told to, and can be down."""

    def __init__(self, **said: Any) -> None:
        self.said = said
        self.down = False

    async def get_model(self, family: str, version: str) -> dict[str, Any]:
        if self.down:
            raise StorageUnavailableError("GENOME is down")
        file = {"path": FILES[0].path, "size": len(DATA), "sha256": SHA256}
        artifact = {"path": "tiny/1", "format": "safetensors"} | self.said.get("artifact", {})
        return {"files": [file], **self.said, "artifact": artifact}


class Engram:
    """The real client on a folder, counting what it is asked for."""

    def __init__(self, root: Path) -> None:
        (root / "mnemos-models" / "tiny" / "1").mkdir(parents=True)
        (root / "mnemos-models" / "tiny" / "1" / FILES[0].path).write_bytes(DATA)
        self._client = EngramClient(f"file://{root}", "", "")
        self.asked = 0

    async def fetch(
        self,
        bucket: str | None,
        files: Sequence[WantedFile],
        on_bytes: Callable[[int], None] | None = None,
        *,
        connections: int = CONNECTIONS,
    ) -> None:
        self.asked += 1
        await self._client.fetch(bucket, files, on_bytes)

    async def fingerprint(self, bucket: str | None, prefix: str) -> str:
        return await self._client.fingerprint(bucket, prefix)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public half lies beside it."""
    private = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(
        private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    )
    path.with_suffix(".pub").write_bytes(
        private.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    )
    return path


@pytest.fixture
def engram(tmp_path: Path) -> Engram:
    return Engram(tmp_path / "engram")


def loader(tmp_path: Path, genome: Genome, engram: Engram, **said: Any) -> ModelLoaderService:
    return ModelLoaderService(Settings(model_cache_dir=tmp_path / "cache", **said), genome, engram)


async def test_a_signed_model_is_taken(tmp_path: Path, engram: Engram, key: Path) -> None:
    genome = Genome(signature=sign_manifest(FILES, "tiny:1", key))
    wary = loader(
        tmp_path,
        genome,
        engram,
        require_signatures=True,
        signature_keys=f"{key.with_suffix('.pub')}",
    )
    assert (await wary.load_model("tiny", "1") / FILES[0].path).read_bytes() == DATA
    genome.down = True
    await wary.load_model("tiny", "1")  # it was judged before


@pytest.mark.parametrize("signed_as", [None, "other:1", "tiny:0"])
async def test_another_model_is_refused_before_its_files_are_asked_for(
    tmp_path: Path, engram: Engram, key: Path, signed_as: str | None
) -> None:
    bundle = sign_manifest(FILES, signed_as, key) if signed_as else None
    genome = Genome(signature=bundle)
    await loader(tmp_path, genome, engram).load_model("tiny", "1")
    wary = loader(
        tmp_path, genome, engram, require_signatures=True, signature_keys=[key.with_suffix(".pub")]
    )
    with pytest.raises(UntrustedModelError, match=r"signature of tiny:1|tiny:1 is not") as caught:
        await wary.load_model("tiny", "1")
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.ARTIFACT_CORRUPT, False)
    assert engram.asked == 1, "the one who asks for no signatures"
    genome.down = True
    with pytest.raises(StorageUnavailableError):
        await wary.load_model("tiny", "1")


async def test_a_pickle_is_refused_before_its_files_are_asked_for(
    tmp_path: Path, engram: Engram
) -> None:
    genome = Genome(artifact={"format": "pickle"})
    with pytest.raises(InvalidInputError, match="NEURON_ALLOW_PICKLE=true"):
        await loader(tmp_path, genome, engram).load_model("tiny", "1")
    assert engram.asked == 0
    await loader(tmp_path, genome, engram, allow_pickle=True).load_model("tiny", "1")


@pytest.mark.parametrize("keys", ["", "/nowhere/key.pub", __file__])
def test_a_worker_that_could_trust_nobody_does_not_start(
    tmp_path: Path, engram: Engram, keys: str
) -> None:
    with pytest.raises(ConfigurationError, match="NEURON_SIGNATURE_KEYS"):
        loader(tmp_path, Genome(), engram, require_signatures=True, signature_keys=keys)
