"""Which lists of files can make a model's folder: nothing in one can lead elsewhere."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

from ..errors import InvalidKeyError
from ..keys import check_key
from ..manifest import MAX_FILES
from .layout import MARKER


def check_paths(paths: Sequence[str]) -> None:
    """Return if `paths` can be the files of one model.

    Raises InvalidKeyError for a path that leaves its folder or only looks as if it did not, for
    two that are one on some file system, for a file that is also a folder, and for too many.
    """
    if not paths:
        raise InvalidKeyError("The list of files is empty.")
    if len(paths) > MAX_FILES:
        raise InvalidKeyError(f"The list names {len(paths)} files, more than {MAX_FILES}.")
    seen: dict[str, str] = {}
    for path in paths:
        check_key(path)
        check_key(_plain(path))  # a full-width slash may become one elsewhere
        if PurePosixPath(path).parts[0].casefold() == MARKER:
            raise InvalidKeyError(f"A file is called {MARKER}, as the cache's own.")
        if other := seen.get(_plain(path)):
            how = "twice" if other == path else f"beside {other!r}, which may be the same file"
            raise InvalidKeyError(f"The list names {path!r} {how}.")
        seen[_plain(path)] = path
    for path in paths:
        for parent in PurePosixPath(_plain(path)).parents:
            if other := seen.get(str(parent)):
                raise InvalidKeyError(f"The list names {other!r} as a file and as a folder.")


def _plain(path: str) -> str:
    return unicodedata.normalize("NFKC", path).casefold()
