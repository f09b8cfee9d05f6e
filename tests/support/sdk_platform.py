"""A system that other people's tools are run against, and a way to run them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
from stack import Stack, running_stack
from tiny_llama import TOOLS_TEMPLATE, build_tiny_llama
from tiny_pooling import build_tiny_embedder

CHAT, READER = "chat:1", "reader:1"
MODELS = (CHAT, READER)
CONTEXT = 4096
"""Agents' tools send long instructions."""


@dataclass(frozen=True)
class Platform:
    """A running system and where it is."""

    stack: Stack
    folder: Path
    """For what a tool writes."""

    @property
    def url(self) -> str:
        """What a tool calls its base URL."""
        return f"{self.stack.cortex_url}/v1"

    def models(self) -> list[str]:
        """The names that /v1/models tells."""
        answer = httpx2.get(f"{self.url}/models", timeout=10)
        answer.raise_for_status()
        return [model["id"] for model in answer.json()["data"]]

    def run(
        self,
        *command: str | Path,
        seconds: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run a tool to its end; return its output, or fail with it where its status is not 0."""
        variables = {
            "OPENAI_BASE_URL": self.url,
            "OPENAI_API_KEY": "unused",
            "MODEL": CHAT,
            "EMBEDDING_MODEL": READER,
            **_OFFLINE,
        }
        done = subprocess.run(
            [str(part) for part in command],
            env={**_inherited(), **variables, **(environment or {})},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=seconds,
            check=False,
        )
        words = " ".join(str(part) for part in command)
        assert done.returncode == 0, f"{words} ended with {done.returncode}\n{done.stdout[-8000:]}"
        return done.stdout


@contextlib.contextmanager
def running_platform(root: Path) -> Iterator[Platform]:
    """Yield a platform whose worker is ready; all of it ends with the block."""
    with running_stack(root) as stack:
        stack.start_platform()
        for name, folder in (
            (CHAT, build_tiny_llama(root / "chat", context=CONTEXT, chat_template=TOOLS_TEMPLATE)),
            (READER, build_tiny_embedder(root / "reader")),
        ):
            stack.mnemos("models", "push", str(folder), "--name", name)
        stack.start_ready_worker()
        work = root / "tools"
        work.mkdir()
        yield Platform(stack, work)


_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
}
"""No tool looks for anything elsewhere."""


def _inherited() -> dict[str, str]:
    """The environment without what would lead a tool away from the platform."""
    away = ("OPENAI_", "AZURE_", "ANTHROPIC_", "PYTHONPATH", "http_proxy", "HTTP_PROXY")
    return {name: value for name, value in os.environ.items() if not name.startswith(away)}
