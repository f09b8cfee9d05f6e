"""Packages that only some need, and what to say where they are missing."""

from __future__ import annotations

import importlib.util
import sys

from .errors import MissingExtraError


def require_extra(module: str, extra: str, what: str) -> None:
    """Raise MissingExtraError, with the command to type, unless `module` is installed.

    `what` is the sentence's plural subject: "Models with pickles".
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(
            f"{what} need the package {module.replace('_', '-')}, which is not installed; install "
            f"it with: {sys.executable} -m pip install 'mnemos-neuron[{extra}]'"
        )
