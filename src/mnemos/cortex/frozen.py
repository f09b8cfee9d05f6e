"""Records that nobody changes, made by the million."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def frozen(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
    """Make a class a dataclass with slots that compares and hashes by its values.

    That nobody changes one is seen to by the type checker alone: dataclasses that see to it
    themselves take three times as long to be made.
    """
    make: Any = dataclass(slots=True, eq=True, unsafe_hash=True, kw_only=kw_only)
    return make  # type: ignore[no-any-return]  # a decorator
