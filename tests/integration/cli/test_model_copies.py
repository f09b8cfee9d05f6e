"""Models that go from one place to another, and who vouches for them there."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec

from mnemos.cli.engram import EngramTarget
from mnemos.cli.errors import CliError, Conflict, ExitCode
from mnemos.cli.sources.copying import copy_model
from mnemos.cli.sources.publish import Publisher, PushOptions
from mnemos.cli.sources.trust import check_model, sign_model
from mnemos.engram.publish import Description
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings

NAME = ("mine", "1.0")


class Site:
    """A GENOME and its ENGRAM."""

    def __init__(self, genome: str, engram: EngramTarget) -> None:
        self.genome = genome
        self.engram = engram

    @property
    def address(self) -> tuple[str, EngramTarget]:
        return self.genome, self.engram

    async def push(self, folder: Path, cache: Path, **options: Any) -> dict[str, Any]:
        publisher = Publisher(self.genome, self.engram, cache)
        done = await publisher.push(folder, NAME, Description(tags=["t"]), PushOptions(**options))
        return done.model


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[tuple[Site, Site]]:
    async with (
        GenomeServer(GenomeSettings(data_dir=tmp_path / "a", http_port=0)) as theirs,
        GenomeServer(GenomeSettings(data_dir=tmp_path / "b", http_port=0)) as ours,
    ):
        yield (
            Site(theirs.url, EngramTarget((tmp_path / "a" / "engram").as_uri())),
            Site(ours.url, EngramTarget((tmp_path / "b" / "engram").as_uri())),
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    (path / "sub").mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(8)
    (path / "model.safetensors").write_bytes(content)
    (path / "config.json").write_text("{}")
    (path / "sub" / "config.json").write_text("{}")  # the same bytes under another name
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public half lies beside it."""
    private = ec.generate_private_key(ec.SECP384R1())
    path = tmp_path / "key.pem"
    path.write_bytes(
        private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    )
    public = private.public_key()
    path.with_suffix(".pub").write_bytes(
        public.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    )
    return path


async def check(site: Site, name: tuple[str, str], *keys: Path) -> dict[str, Any]:
    return await check_model(site.genome, site.engram, name, keys, read_files=True)


async def test_a_copy_is_the_same_model_with_its_signature(
    sites: tuple[Site, Site], folder: Path, key: Path, tmp_path: Path
) -> None:
    theirs, ours = sites
    pushed = await theirs.push(folder, tmp_path / "cache", signing_key=key)
    copied = await copy_model(
        NAME, NAME, theirs.address, ours.address, tmp_path / "cache", replace=False
    )
    same = ("artifact", "files", "signature", "tags", "runtime")
    assert {each: copied.model[each] for each in same} == {each: pushed[each] for each in same}
    await check(ours, NAME, key.with_suffix(".pub"))
    assert not list((tmp_path / "cache" / "copies").iterdir())
    again = await copy_model(
        NAME, NAME, theirs.address, ours.address, tmp_path / "cache", replace=False
    )
    assert not again.fresh


async def test_a_copy_under_another_name_leaves_the_signature_behind(
    sites: tuple[Site, Site], folder: Path, key: Path, tmp_path: Path
) -> None:
    theirs, ours = sites
    await theirs.push(folder, tmp_path / "cache", signing_key=key)
    name = ("renamed", "2")
    copied = await copy_model(
        NAME, name, theirs.address, ours.address, tmp_path / "cache", replace=False
    )
    assert copied.model["signature"] is None
    await check(ours, name)
    with pytest.raises(CliError, match="renamed:2 is not signed"):
        await check(ours, name, key.with_suffix(".pub"))


async def test_a_damaged_file_is_not_copied(
    sites: tuple[Site, Site], folder: Path, tmp_path: Path
) -> None:
    theirs, ours = sites
    pushed = await theirs.push(folder, tmp_path / "cache")
    stored = tmp_path / "a" / "engram" / "mnemos-models" / pushed["artifact_path"]
    whole = (stored / "model.safetensors").read_bytes()
    (stored / "model.safetensors").write_bytes(whole[:-1] + b"?")
    with pytest.raises(CliError, match=hashlib.sha256(whole).hexdigest()) as caught:
        await copy_model(
            NAME, NAME, theirs.address, ours.address, tmp_path / "cache", replace=False
        )
    assert caught.value.code == "damaged_object"
    with pytest.raises(CliError, match="no model family mine"):
        await check(ours, NAME)
    assert not list((tmp_path / "b" / "engram").rglob("model.safetensors"))
    (stored / "model.safetensors").write_bytes(whole)
    await copy_model(NAME, NAME, theirs.address, ours.address, tmp_path / "cache", replace=False)
    await check(ours, NAME)


async def test_a_copy_takes_no_name_that_is_taken(
    sites: tuple[Site, Site], folder: Path, tmp_path: Path
) -> None:
    theirs, ours = sites
    pushed = await theirs.push(folder, tmp_path / "cache")
    (folder / "config.json").write_text('{"other": 1}')
    own = await ours.push(folder, tmp_path / "cache")
    with pytest.raises(Conflict) as caught:
        await copy_model(
            NAME, NAME, theirs.address, ours.address, tmp_path / "cache", replace=False
        )
    digests = [each["artifact"]["checksum"] for each in (pushed, own)]
    assert all(digest in caught.value.message for digest in digests)
    await copy_model(NAME, NAME, theirs.address, ours.address, tmp_path / "cache", replace=True)
    assert (await check(ours, NAME))["artifact"]["checksum"] == digests[0]


async def test_a_registered_model_is_signed_and_its_signature_judged(
    sites: tuple[Site, Site], folder: Path, key: Path, tmp_path: Path
) -> None:
    site, _ = sites
    await site.push(folder, tmp_path / "cache")
    public = key.with_suffix(".pub")
    with pytest.raises(CliError, match=r"mine:1\.0 is not signed") as caught:
        await check(site, NAME, public)
    assert caught.value.code == "untrusted"
    await sign_model(site.genome, NAME, key)
    await check(site, NAME, public)
    (folder / "config.json").write_text('{"other": 1}')
    replaced = await site.push(folder, tmp_path / "cache", replace=True)
    assert replaced["signature"] is None, "it was for the other files"
    signed = await site.push(folder, tmp_path / "cache", signing_key=key)
    assert signed["signature"]
    await check(site, NAME, public)
    with pytest.raises(CliError, match="is no private key") as refused:
        await site.push(folder, tmp_path / "cache", signing_key=public)
    assert refused.value.exit_code is ExitCode.USAGE
    with pytest.raises(CliError, match="is no public key"):
        await check(site, NAME, folder / "config.json")


async def test_a_model_goes_from_a_folder_to_s3(
    sites: tuple[Site, Site],
    folder: Path,
    tmp_path: Path,
    s3_server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs, ours = sites
    monkeypatch.setenv("MNEMOS_ENGRAM_ACCESS_KEY", s3_server.access_key)
    monkeypatch.setenv("MNEMOS_ENGRAM_SECRET_KEY", s3_server.secret_key)
    bucket = f"copies-{tmp_path.name[-20:].strip('-_').replace('_', '-').lower()}"
    far = Site(ours.genome, EngramTarget(f"s3://{bucket}", s3_server.endpoint))
    await theirs.push(folder, tmp_path / "cache")
    async with asyncio.timeout(60):
        await copy_model(NAME, NAME, theirs.address, far.address, tmp_path / "c", replace=False)
        await check(far, NAME)
