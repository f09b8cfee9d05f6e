"""Remembers what lies damaged in ENGRAM, so that nobody fetches it again in vain."""

from __future__ import annotations

from typing import Protocol

import structlog

from ..errors import ArtifactCorruptError, NeuronError
from .model_manifest import ModelManifest

logger = structlog.get_logger(__name__)


class ArtifactListing(Protocol):
    """What tells whether anything has changed in ENGRAM."""

    async def fingerprint(self, bucket: str | None, prefix: str) -> str: ...


class DamagedArtifacts:
    """The models that came damaged, and what lay in ENGRAM then. Forgotten with the process."""

    def __init__(self, listing: ArtifactListing) -> None:
        self._listing = listing
        self._known: dict[str, tuple[str, str]] = {}

    async def check(self, manifest: ModelManifest) -> None:
        """Return if it is worth fetching.

        Raises:
            ArtifactCorruptError: it came damaged before, and nothing was changed there since.
        """
        known = self._known.get(manifest.digest)
        if known is None:
            return
        before, sentence = known
        if await self._fingerprint(manifest) != before:
            del self._known[manifest.digest]
            return
        raise ArtifactCorruptError(f"{sentence.rstrip('.')}; nothing has changed there since")

    async def note(self, manifest: ModelManifest, error: ArtifactCorruptError) -> None:
        """Keep in mind that it came damaged."""
        if fingerprint := await self._fingerprint(manifest):
            self._known[manifest.digest] = (fingerprint, error.message)

    async def _fingerprint(self, manifest: ModelManifest) -> str:
        """Empty where ENGRAM does not say: then it is fetched."""
        try:
            return await self._listing.fingerprint(manifest.bucket or None, manifest.artifact_path)
        except NeuronError as error:
            logger.warning("artifact_not_listed", path=manifest.artifact_path, error=error.message)
            return ""
