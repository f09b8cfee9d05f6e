"""One checksum for a whole model: that of the list of its files, in one canonical spelling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping


def manifest_checksum(files: Iterable[tuple[str, int, str]]) -> str:
    """Return "sha256:<hex>" over (path, size, sha256) of every file, in whatever order given.

    Hashed are the bytes of `{"files":[{"path":…,"sha256":…,"size":…},…],"version":1}`: UTF-8
    JSON without spaces or escapes beyond JSON's own, keys and files in order of their names.
    """
    entries: list[Mapping[str, object]] = [
        {"path": path, "sha256": sha256, "size": size} for path, size, sha256 in sorted(files)
    ]
    text = json.dumps(
        {"files": entries, "version": 1},
        ensure_ascii=False,
        separators=(",", ":"),
        sort_keys=True,
    )
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
