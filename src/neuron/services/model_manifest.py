"""What GENOME says a model's files are. Nothing in it is trusted until it is checked here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mnemos.engram.cache import check_paths
from mnemos.engram.digest import manifest_checksum
from mnemos.engram.errors import InvalidKeyError
from mnemos.engram.keys import check_bucket, check_key
from mnemos.engram.manifest import ManifestFile

from ..errors import ArtifactCorruptError

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """A model's files, and where ENGRAM keeps them."""

    bucket: str
    """Empty: where ENGRAM keeps models by default."""
    artifact_path: str
    files: tuple[ManifestFile, ...]
    digest: str
    """The digest of the files, "sha256:<hex>"."""

    @property
    def total_bytes(self) -> int:
        """What the files take on disk."""
        return sum(file.size for file in self.files)


def parse_manifest(metadata: dict[str, Any], family: str, version: str) -> ModelManifest:
    """Read GENOME's metadata.

    Raises:
        ArtifactCorruptError: it names no files, or files that could leave their folder, or its
            checksum is not that of the files it names.
    """
    name = f"{family}:{version}"
    artifact = metadata.get("artifact")
    artifact = artifact if isinstance(artifact, dict) else {}
    path = metadata.get("artifact_path") or artifact.get("path")
    listed = metadata.get("files")
    if not isinstance(path, str) or not isinstance(listed, list) or not listed:
        raise ArtifactCorruptError(f"GENOME names no files for {name}")
    files = tuple(_file(entry, name) for entry in listed)
    bucket = artifact.get("bucket") or ""
    try:
        check_key(path.rstrip("/"))
        check_paths([file.path for file in files])
        if bucket:
            check_bucket(bucket)
    except (InvalidKeyError, TypeError) as error:
        raise ArtifactCorruptError(f"the manifest of {name} is not allowed: {error}") from error
    digest = manifest_checksum((file.path, file.size, file.sha256) for file in files)
    said = artifact.get("checksum")
    if said is not None and said != digest:
        raise ArtifactCorruptError(
            f"GENOME's manifest of {name} has the digest {digest}, not the {said} that it names"
        )
    return ModelManifest(bucket, path, files, digest)


def _file(entry: Any, name: str) -> ManifestFile:
    path, size, sha256 = (
        (entry.get("path"), entry.get("size"), entry.get("sha256"))
        if isinstance(entry, dict)
        else (None, None, None)
    )
    if not (isinstance(path, str) and type(size) is int and size >= 0):
        raise ArtifactCorruptError(f"GENOME's manifest of {name} cannot be read")
    if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ArtifactCorruptError(f"GENOME's manifest of {name} lacks a sha256")
    return ManifestFile(path, size, sha256)
