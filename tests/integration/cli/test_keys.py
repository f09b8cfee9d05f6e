"""`mnemos keys`, and what commands say where a key is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from certificates import Authority
from click.testing import CliRunner, Result
from pydantic import SecretStr

from mnemos.cli.engram import EngramTarget
from mnemos.cli.errors import ExitCode, UsageFault
from mnemos.cli.main import cli
from mnemos.cli.platform.options import UpOptions
from mnemos.cli.platform.tokens import PlatformTokens
from mnemos.cortex.server import CortexServer
from mnemos.cortex.settings import CortexSettings
from mnemos.genome.client import GenomeClient
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings

OPERATOR = "the-operators-own-key-0001"
MODEL = {
    "family": "tiny",
    "version": "1",
    "artifact": {"format": "safetensors"},
    "files": [{"path": "model.safetensors", "size": 40, "sha256": "b" * 64}],
}


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    settings = CortexSettings(
        data_dir=tmp_path / "cortex", http_port=0, grpc_port=0, admin_key=SecretStr(OPERATOR)
    )
    async with CortexServer(settings) as server:
        yield server.http_url


async def mnemos(url: str, *words: str, key: str = OPERATOR) -> Result:
    environment = {"MNEMOS_CORTEX_URL": url, "MNEMOS_API_KEY": key, "COLUMNS": "200"}
    return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, list(words))


async def test_a_key_is_made_shown_changed_and_deleted(url: str) -> None:
    made = await mnemos(url, "keys", "create", "alice", "--max-waiting-jobs", "5")
    secret = made.stdout.strip()
    assert (made.exit_code, secret[:3]) == (0, "mk-")
    assert "read and submit" in made.stderr
    listed = await mnemos(url, "keys", "list", "-o", "json")
    [key] = json.loads(listed.stdout)["keys"]
    assert (key["name"], key["max_waiting_jobs"]) == ("alice", 5)
    assert secret not in listed.stdout
    assert (await mnemos(url, "jobs", "list", key=secret)).exit_code == 0

    words = ("--scope", "read", "--weight", "2", "--max-waiting-jobs", "none")
    changed = await mnemos(url, "keys", "update", "alice", *words, "-o", "json")
    now = json.loads(changed.stdout)
    assert (now["scopes"], now["weight"], now["max_waiting_jobs"]) == (["read"], 2.0, None)
    assert (await mnemos(url, "keys", "disable", "alice")).exit_code == 0
    refused = await mnemos(url, "jobs", "list", key=secret)
    assert "disabled" in refused.stderr
    assert (await mnemos(url, "keys", "update", "alice", "--enable")).exit_code == 0
    shown = await mnemos(url, "keys", "show", "alice")
    assert "no limit" in shown.stdout
    assert (await mnemos(url, "keys", "delete", "alice")).exit_code == 0
    assert (await mnemos(url, "keys", "show", "alice")).exit_code == ExitCode.NOT_FOUND
    assert (await mnemos(url, "keys", "update", "alice")).exit_code == ExitCode.USAGE


async def test_who_is_not_let_in_is_told_what_to_do(url: str) -> None:
    missing = await mnemos(url, "jobs", "list", key="")
    assert missing.exit_code == ExitCode.FAILED
    assert "MNEMOS_API_KEY" in missing.stderr
    made = await mnemos(url, "keys", "create", "alice", "--scope", "read")
    lacking = await mnemos(url, "keys", "list", key=made.stdout.strip())
    assert lacking.exit_code == ExitCode.FAILED
    assert "the scope admin" in lacking.stderr


async def test_genome_asks_for_its_token_where_something_changes(tmp_path: Path) -> None:
    token = "the-token-of-genome-0001"
    settings = GenomeSettings(data_dir=tmp_path, http_port=0, token=SecretStr(token))
    async with GenomeServer(settings) as genome, GenomeClient(genome.url, token=token) as owner:
        await owner.register(MODEL)

        async def forget(brought: str) -> Result:
            environment = {"MNEMOS_GENOME_URL": genome.url, "MNEMOS_GENOME_TOKEN": brought}
            words = ["models", "delete", "tiny:1", "--yes"]
            return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, words)

        read = {"MNEMOS_GENOME_URL": genome.url}
        listed = await asyncio.to_thread(CliRunner(env=read).invoke, cli, ["models", "list"])
        assert listed.exit_code == 0, listed.stderr
        refused = await forget("a-guess")
        assert refused.exit_code == ExitCode.FAILED
        assert "MNEMOS_GENOME_TOKEN" in refused.stderr
        assert (await forget(token)).exit_code == 0


def test_a_platform_for_other_machines_takes_secrets(tmp_path: Path) -> None:
    def options(host: str) -> UpOptions:
        engram = EngramTarget.of(None, None, tmp_path)
        return UpOptions(data_dir=tmp_path, engram=engram, host=host)

    here = PlatformTokens.of(options("127.0.0.1"), {})
    assert (here.for_cortex, here.for_workers) == ({}, {})
    with pytest.raises(UsageFault, match="other machines"):
        PlatformTokens.of(options("192.0.2.7"), {"CORTEX_ADMIN_KEY": OPERATOR})
    open_to_all = PlatformTokens.of(options("192.0.2.7"), {"GENOME_TOKEN": "g" * 16})
    assert open_to_all.for_cortex == {
        "worker_token": open_to_all.for_workers["NEURON_CORTEX_TOKEN"],
        "genome_token": "g" * 16,
    }
    assert open_to_all.for_workers["NEURON_GENOME_TOKEN"] not in repr(open_to_all)
    given = PlatformTokens.of(options("127.0.0.1"), {"CORTEX_WORKER_TOKEN": "w" * 16})
    assert given.for_workers == {"NEURON_CORTEX_TOKEN": "w" * 16}


async def test_a_certificate_of_an_authority_of_ones_own_is_believed(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    shown = authority.issue("cortex")
    settings = CortexSettings(
        data_dir=tmp_path / "cortex",
        http_port=0,
        grpc_port=0,
        tls_cert=shown.cert,
        tls_key=shown.key,
    )

    async def listing(**more: str) -> Result:
        environment = {"MNEMOS_CORTEX_URL": server.http_url, **more}
        return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, ["jobs", "list"])

    async with CortexServer(settings) as server:
        assert (await listing(SSL_CERT_FILE=str(authority.cert))).exit_code == 0
        assert (await listing()).exit_code == ExitCode.UNREACHABLE
        nothing = await listing(SSL_CERT_FILE=str(tmp_path / "nothing"))
        assert nothing.exit_code == ExitCode.USAGE
        assert "SSL_CERT_FILE" in nothing.stderr
