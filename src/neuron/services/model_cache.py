"""Where models' files lie on this machine: complete and verified, or not at all."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

import structlog

from mnemos.engram.cache import ArtifactCache, Busy, Entry, Hold, Load
from mnemos.engram.cache.hashing import sha256_of
from mnemos.engram.errors import EngramError
from mnemos.engram.manifest import ManifestFile

from ..clients.engram_client import translated
from ..errors import InvalidInputError, StorageUnavailableError

logger = structlog.get_logger(__name__)


class ModelCache:
    """A folder of models; `{family}:{version}` is a model's key.

    Methods read and write files: call them in threads. Any number of workers share a folder. A
    model appears in it at once, when everything in it is verified and durable, and stays while
    somebody holds it; `budget_bytes` and `pinned` are as ArtifactCache says.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        budget_bytes: int | None = None,
        pinned: Collection[str] = (),
    ) -> None:
        self.cache_dir = Path(cache_dir)
        self._budget_bytes = budget_bytes
        self._pinned = frozenset(pinned)
        self.artifacts = ArtifactCache(self.cache_dir, budget_bytes, pinned)

    def get(self, model_key: str, digest: str | None = None) -> Path | None:
        """Return a cached model's folder; None if it is absent, incomplete or has another digest.

        Cheap: sizes are compared, contents are not read again. Raises InvalidInputError.
        """
        held = self.hold(model_key, digest)
        if held is None:
            return None
        held.close()
        return held.path

    def hold(self, model_key: str, digest: str | None = None) -> Hold | None:
        """As `get`; the model stays until the hold is closed."""
        family, version = split_key(model_key)
        self.folder(family, version)
        with translated(model_key):
            return self.artifacts.hold(family, version, digest)

    def digest(self, model_key: str) -> str | None:
        """Return the digest of a cached model, "sha256:<hex>"; None if it is not here whole."""
        held = self.hold(model_key)
        if held is None:
            return None
        held.close()
        return held.digest

    def models(self) -> list[Entry]:
        """Return the models that are here whole, the most recently used first.

        Raises NeuronErrors.
        """
        with translated(str(self.cache_dir)):
            entries = [entry for entry in self.artifacts.entries() if entry.whole]
        return sorted(entries, key=lambda entry: -entry.last_used)

    def sparing(self, seconds: float) -> ArtifactCache:
        """Return the cache as one that evicts nothing that was used in the last `seconds`."""
        since = time.time() - seconds
        with translated(str(self.cache_dir)):
            entries = self.artifacts.entries()
        recent = {f"{one.family}:{one.version}" for one in entries if one.last_used >= since}
        return ArtifactCache(self.cache_dir, self._budget_bytes, self._pinned | recent)

    def set(self, model_key: str, model_path: Path) -> Path:
        """Copy the files below `model_path` into the cache as that model; return its folder."""
        family, version = split_key(model_key)
        self.folder(family, version)
        files = files_below(model_path)
        with translated(model_key):
            begun = self.artifacts.begin(family, version, files)
            if isinstance(begun, Busy):
                raise StorageUnavailableError(f"another worker loads {model_key} just now")
            held = begun if isinstance(begun, Hold) else _copy_in(begun, model_path)
        held.close()
        return held.path

    def folder(self, family: str, version: str) -> Path:
        """Return where a model lies or would lie.

        Raises:
            InvalidInputError: a name that could lead out of the cache.
        """
        try:
            return self.artifacts.folder(family, version)
        except EngramError as error:
            raise InvalidInputError(f"the model's {error.message}") from error

    def remove_strays(self) -> int:
        """Remove what dead processes left; return how many things. A failure is only logged."""
        try:
            removed = self.artifacts.remove_strays()
        except (EngramError, OSError) as error:
            logger.warning("strays_not_removed", cache_dir=str(self.cache_dir), error=str(error))
            return 0
        if removed:
            logger.info("stray_downloads_removed", count=removed)
        return removed


def split_key(model_key: str) -> tuple[str, str]:
    """Return family and version of `family:version`."""
    family, _, version = model_key.partition(":")
    return family, version


def files_below(folder: Path) -> list[ManifestFile]:
    """Return the files in a folder; all of them are read."""
    return [
        ManifestFile(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    ]


def _copy_in(load: Load, folder: Path) -> Hold:
    try:
        while (claimed := load.claim()).files:
            for file, place in claimed.files:
                shutil.copyfile(folder / file.path, place)
                with place.open("rb") as copied:
                    os.fsync(copied.fileno())
            load.adopt(claimed)
        return load.finish()
    finally:
        load.close()
