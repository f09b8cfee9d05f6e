"""Brings damaged files of a model cache anew, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mnemos.engram.cache import ArtifactCache, Damage
from mnemos.engram.digest import manifest_checksum
from mnemos.engram.fetch import WantedFile, fetch_files
from mnemos.engram.files import OnBytes
from mnemos.engram.manifest import ManifestFile
from mnemos.engram.obtain import in_thread, obtain

from .errors import Conflict, NotFound
from .names import split_full_name
from .output import note
from .sources.registry import GenomeClient, find_model, open_genome, told_plainly

if TYPE_CHECKING:
    from .engram import EngramTarget


async def mend_models(
    cached: ArtifactCache, damages: Sequence[Damage], genome_url: str, engram: EngramTarget
) -> frozenset[str]:
    """Return the names of the models that are whole again.

    GENOME is asked first: as long as it cannot say what a model is, nothing is taken out. What
    other models shared with it they have again. Raises CliError.
    """
    mended: set[str] = set()
    if not damages:
        return frozenset()
    async with open_genome(genome_url) as genome:
        for name in dict.fromkeys(damage.model for damage in damages):
            if name in mended:
                continue
            described = await _described(genome, name)
            with told_plainly():
                mine = [damage for damage in damages if damage.model == name]
                affected = await in_thread(cached.take_out, mine)
                await _bring(cached, name, described, engram)
                for other in sorted(affected - mended - {name}):
                    await _link_again(cached, other)
            mended.add(name)
    return frozenset(mended)


async def _described(genome: GenomeClient, name: str) -> Mapping[str, Any]:
    family, version = split_full_name(name)
    model = await find_model(genome, family, version)
    if model is None:
        raise NotFound(
            f"GENOME does not know {name} any more, so that it cannot be mended.",
            code="model_not_found",
            hint="remove it: mnemos cache prune",
        )
    return model


async def _bring(
    cached: ArtifactCache, name: str, model: Mapping[str, Any], engram: EngramTarget
) -> None:
    family, version = split_full_name(name)
    files = [ManifestFile(each["path"], each["size"], each["sha256"]) for each in model["files"]]
    artifact = model["artifact"]
    digest = manifest_checksum((file.path, file.size, file.sha256) for file in files)
    if digest != artifact["checksum"]:
        raise Conflict(f"What GENOME says about {name} does not agree with its own checksum.")
    store = engram.open()

    async def fetch(wanted: Sequence[WantedFile], on_bytes: OnBytes) -> None:
        await fetch_files(store, artifact["bucket"], wanted, on_bytes=on_bytes)

    watcher = _Told(name)
    held = await obtain(cached, family, version, files, artifact["path"], fetch, watcher)
    held.close()


async def _link_again(cached: ArtifactCache, name: str) -> None:
    """Give a model back the file that it shares with one that was mended."""
    family, version = split_full_name(name)
    files = await in_thread(cached.files, family, version)
    lacking = [file for file in files if not cached.layout.blob(file.sha256).exists()]
    if not files or lacking:
        return  # damaged itself: it is mended in its turn, or with its next load

    async def fetch(wanted: Sequence[WantedFile], on_bytes: OnBytes) -> None:
        raise Conflict(f"{name} lacks {len(wanted)} files.")

    held = await obtain(cached, family, version, files, "", fetch, _Told(name))
    held.close()


class _Told:
    """Says on stderr what happens; see obtain.Watcher."""

    def __init__(self, name: str) -> None:
        self._name = name

    def begun(self, here_bytes: int, total_bytes: int) -> None:
        """Say what is fetched."""
        note(f"Fetching {total_bytes - here_bytes:,} bytes of {self._name} …")

    def came(self, count: int) -> None:
        """Say nothing: the end is said."""

    def waiting(self, percent: int) -> None:
        """Say nothing: the wait ends with the other's download."""

    def evicted(self, models: Sequence[str]) -> None:
        """Name what had to make room."""
        note(f"{', '.join(models)} made room.")
