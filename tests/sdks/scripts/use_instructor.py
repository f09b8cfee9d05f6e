"""instructor: answers as pydantic models."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any, Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel

ASKED: dict[str, Any] = {
    "model": os.environ["MODEL"],
    "messages": [{"role": "user", "content": "Where is Paris?"}],
    "temperature": 0,
    "max_retries": 0,
}


class City(BaseModel):
    """What an answer is parsed into."""

    name: Literal["Paris", "Rome"]
    large: bool


def main() -> None:
    """Use it all."""
    with OpenAI(max_retries=0, timeout=30) as client:
        for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
            city = instructor.from_openai(client, mode=mode).create(response_model=City, **ASKED)
            assert isinstance(city, City), mode
    print("instructor", version("instructor"))


if __name__ == "__main__":
    main()
