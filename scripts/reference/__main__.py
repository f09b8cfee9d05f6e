"""Write docs/reference; with --check, only say which pages are not what the code says now.

python -m scripts.reference [--check]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import commands, errors, http, metrics, protocol, settings
from .markdown import tidy

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGES = {
    "settings.md": settings.page,
    "commands.md": commands.page,
    "http.md": http.page,
    "grpc.md": protocol.page,
    "metrics.md": metrics.page,
    "errors.md": errors.page,
}


def main() -> int:
    """Return the exit status: 1 when a page is not current, or should not be there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args().check
    pages = {name: tidy(page()) for name, page in PAGES.items()}
    present = {path.name: path.read_text() for path in FOLDER.glob("*.md")}
    stale = sorted(name for name in pages | present if pages.get(name) != present.get(name))
    if check:
        for name in stale:
            sys.stderr.write(f"docs/reference/{name} is not what the code says\n")
        if stale:
            sys.stderr.write("run `make reference`\n")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in pages:
            (FOLDER / name).write_text(pages[name])
        else:
            (FOLDER / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
