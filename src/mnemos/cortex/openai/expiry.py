"""How long files are kept, and how large a batch's may be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .requests import Strict

MAX_BATCH_FILE_BYTES = 200 * 1024 * 1024


class ExpiresAfter(Strict):
    """When a file goes."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)
