"""Print what pyproject.toml asks for, with the extras named: a layer that the sources don't change.

python3 requirements.py pyproject.toml postgres otel > requirements.txt
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Print one requirement a line; an extra that is not there is a KeyError."""
    project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
    found = list(project["dependencies"])
    for extra in sys.argv[2:]:
        found += project["optional-dependencies"][extra]
    sys.stdout.write("\n".join(dict.fromkeys(found)) + "\n")


if __name__ == "__main__":
    main()
