"""GENOME's token: for changes always, beyond loopback for reads too."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from mnemos.genome.client import GenomeClient
from mnemos.genome.errors import GenomeUnavailableError, ModelNotFoundError, NotLetInError
from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings

TOKEN = "the-token-of-genome-0001"
EVERYWHERE = "0.0.0.0"  # noqa: S104


async def test_changes_need_the_token(tmp_path: Path) -> None:
    settings = GenomeSettings(data_dir=tmp_path, http_port=0, token=SecretStr(TOKEN))
    async with (
        GenomeServer(settings) as server,
        GenomeClient(server.url) as stranger,
        GenomeClient(server.url, token=TOKEN) as owner,
    ):
        assert (await stranger.list()).models == []
        await stranger.validate({})
        for change in (stranger.register({}), stranger.delete("tiny", "1")):
            with pytest.raises(NotLetInError, match="GENOME_TOKEN"):
                await change
        with pytest.raises(ModelNotFoundError):
            await owner.delete("tiny", "1")
        assert TOKEN not in repr(settings)


async def test_beyond_loopback_reads_need_it_too(tmp_path: Path) -> None:
    bare = GenomeSettings(data_dir=tmp_path, http_host=EVERYWHERE, http_port=0)
    with pytest.raises(GenomeUnavailableError, match="GENOME_TOKEN"):
        async with GenomeServer(bare):
            pass
    guarded = bare.model_copy(update={"token": SecretStr(TOKEN)})
    async with GenomeServer(guarded) as server:
        async with GenomeClient(server.url) as stranger:
            await stranger.check_health()
            with pytest.raises(NotLetInError):
                await stranger.list()
        async with GenomeClient(server.url, token=TOKEN) as owner:
            assert (await owner.list()).models == []
    off = bare.model_copy(update={"auth": "off"})
    async with GenomeServer(off) as server, GenomeClient(server.url) as anyone:
        assert (await anyone.list()).models == []
