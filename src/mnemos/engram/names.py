"""Which names a model's files may have, so that no machine and no eye takes one for another."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from .errors import InvalidKeyError
from .keys import check_key

_WORD = re.compile(r"[^\W\d_]+")
_ALIKE = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC"})
"""Scripts with letters that look like those of another."""


def check_file_name(name: str) -> str:
    """Return `name` if a model's file may have this path, or raise InvalidKeyError.

    Beyond what check_key wants: one spelling of each letter (NFC, and no letter that only looks
    like another one, such as a full-width or a Cyrillic "c" in a Latin word).
    """
    check_key(name)
    if unicodedata.normalize("NFC", name) != name:
        raise InvalidKeyError(
            f"path {name!r} is not allowed: its accents are written apart (it is not NFC); "
            "rename it."
        )
    if unicodedata.normalize("NFKC", name) != name:
        raise InvalidKeyError(
            f"path {name!r} is not allowed: it holds a character that only looks like "
            f"another one of {unicodedata.normalize('NFKC', name)!r}; rename it."
        )
    for word in _WORD.findall(name):
        scripts = sorted(_ALIKE & {unicodedata.name(letter, "").split(" ")[0] for letter in word})
        if len(scripts) > 1:
            raise InvalidKeyError(
                f"path {name!r} is not allowed: its word {word!r} mixes "
                f"{' and '.join(script.capitalize() for script in scripts)} letters, which look "
                "alike; rename it."
            )
    return name


def check_apart(names: Iterable[str]) -> None:
    """Raise InvalidKeyError if two names are one where upper and lower case are the same.

    Folders count as well: "A/x" and "a/y" would share a folder on such a disk.
    """
    known: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end])
            other = known.setdefault(path.casefold(), path)
            if other != path:
                raise InvalidKeyError(
                    f"path {path!r} is not allowed beside {other!r}: they differ by upper and "
                    "lower case only, and some disks take them for one."
                )
