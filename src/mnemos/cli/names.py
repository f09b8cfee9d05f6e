"""Model names as people type them: `family:version`, or `family` for its newest version."""

from __future__ import annotations

import re

from .errors import UsageFault

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def split_model_name(name: str) -> tuple[str, str | None]:
    """Family and version; the version is None when none was given.

    Raises UsageFault for a word that could leave its directory or that no registry takes.
    """
    family, colon, version = name.partition(":")
    for word, what in ((family, "family"), (version, "version")):
        if what == "version" and not colon:
            continue
        if not _WORD.fullmatch(word) or ".." in word:
            raise UsageFault(
                f"{name!r} is no model name: its {what} {word!r} must be letters, digits, "
                "dots, dashes and underscores, without '..'.",
                field=what,
                hint="write it like smollm2:135m-instruct",
            )
    return family, version or None


def split_full_name(name: str) -> tuple[str, str]:
    """Family and version, both of which must be given."""
    family, version = split_model_name(name)
    if version is None:
        raise UsageFault(f"{name!r} names no version.", hint=f"write it like {family}:1.0")
    return family, version
