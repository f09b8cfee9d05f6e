# mypy: disable-error-code="untyped-decorator"
"""A task for inspect-ai: four questions, and whether the answer has the word."""

from __future__ import annotations

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def questions() -> Task:
    """Ask each, and look for its answer."""
    fields = FieldSpec(input="question", target="answer")
    where = str(Path(__file__).with_name("questions.jsonl"))
    return Task(dataset=json_dataset(where, fields), solver=generate(), scorer=includes())
