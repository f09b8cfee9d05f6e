"""What a model's folder is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from ...errors import ArtifactCorruptError

Task = Literal["generate", "embed", "classify"]

_TASK_BY_ENDING: dict[str, Task] = {
    "ForSequenceClassification": "classify",
    "ForCausalLM": "generate",
    "LMHeadModel": "generate",
    "Model": "embed",
}
SENTENCE_FILES = ("modules.json", "1_Pooling/config.json")


def find_task(folder: Path, name: str) -> Task:
    """From the architecture in config.json, and from files of sentence-transformers.

    A folder that says nothing, or has no config.json, is taken for a model that generates text.
    """
    if not (folder / "config.json").is_file():
        return "generate"
    architectures = read_json(folder / "config.json", name).get("architectures") or [""]
    tasks = [task for end, task in _TASK_BY_ENDING.items() if architectures[0].endswith(end)]
    task: Task = tasks[0] if tasks else "generate"
    if task != "classify" and any((folder / file).is_file() for file in SENTENCE_FILES):
        return "embed"
    return task


def read_json(path: Path, name: str) -> Any:
    """What a JSON file of the model holds.

    Raises:
        ArtifactCorruptError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactCorruptError(
            f"the files of {name} cannot be read: {path.name}: {error}"
        ) from error
