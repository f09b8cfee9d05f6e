"""For mkdocs: links that leave docs/ name what they meant, for the site holds docs/ alone."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]*\.\./[^)\s]*)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn `[text](../file)` into text and the file's name, where it lies outside docs/."""
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def told(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2].split("#")[0]))
        inside = target == "docs" or target.startswith("docs/")
        named = link[1].strip("`") in target
        return link[0] if inside else f"`{target}`" if named else f"{link[1]} (`{target}`)"

    return _LINK.sub(told, markdown)
