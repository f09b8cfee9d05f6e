"""The jobs and results that docs/row-jobs.md shows are what it says they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuron.models.job import JobSpec
from neuron.services.rows.reading import RowReader
from neuron.services.rows.scoring import exact_match, f1, perplexity

PAGE = Path(__file__).parents[4] / "docs" / "row-jobs.md"


def examples() -> list[Any]:
    """The indented blocks, as the JSON that they are."""
    blocks = [""]
    for line in PAGE.read_text().splitlines():
        if line.startswith("    "):
            blocks[-1] += line
        elif blocks[-1]:
            blocks.append("")
    return [json.loads(block) for block in blocks if block]


def jobs() -> list[dict[str, Any]]:
    return [shown for shown in examples() if isinstance(shown, dict) and "input" in shown]


def test_the_page_shows_jobs_of_both_types() -> None:
    assert {job["job_type"] for job in jobs()} == {"batch_inference", "evaluation"}


@pytest.mark.parametrize("shown", jobs(), ids=lambda shown: str(shown["job_type"]))
def test_a_job_on_the_page_can_be_read(shown: dict[str, Any]) -> None:
    model = shown["model"] | {"runtime": "transformers"}
    reader = RowReader(JobSpec.model_validate(shown | {"job_id": "job_1", "model": model}))

    for index in range(len(shown["input"]["inputs"])):
        reader.read(index)


def test_the_scores_on_the_page_are_those_of_its_answer() -> None:
    (row,) = [shown for shown in examples() if isinstance(shown, dict) and "scores" in shown]

    assert row["scores"] == {
        "exact_match": exact_match(row["result"], row["reference"]),
        "f1": f1(row["result"], row["reference"]),
        "perplexity": round(perplexity(row["reference_logprob"], row["reference_tokens"]), 2),
    }
