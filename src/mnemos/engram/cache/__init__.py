"""Where models' files lie on a machine: shared by its processes, complete and verified."""

from .cache import ArtifactCache, Busy, Entry, Usage, split_model
from .eviction import Budget, Removal
from .holding import Hold
from .load import Claimed, Load
from .paths import check_paths
from .verifying import Damage

__all__ = [
    "ArtifactCache",
    "Budget",
    "Busy",
    "Claimed",
    "Damage",
    "Entry",
    "Hold",
    "Load",
    "Removal",
    "Usage",
    "check_paths",
    "split_model",
]
