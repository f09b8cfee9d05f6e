"""MNEMOS: the platform around NEURON workers (CORTEX jobs, GENOME models, ENGRAM files).

`mnemos.Client` and `mnemos.AsyncClient` are imported when they are first used, so that the
platform's own processes do not carry them.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import AsyncClient, Client, JobRequest, MnemosError

__all__ = ["AsyncClient", "Client", "JobRequest", "MnemosError", "__version__"]
__version__ = version("mnemos-neuron")


def __getattr__(name: str) -> object:
    """Import the client when somebody wants it."""
    if name in __all__:
        from . import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
