"""How many tokens a job may use, before that is known."""

from __future__ import annotations

import json
from typing import Any

from ..records import NewJob

CHARACTERS_PER_TOKEN = 4
UNSAID_TOKENS = 256
"""What an answer is taken for whose request does not limit it."""
LIKELY_MOST_TOKENS = 4096
"""More than that a request may allow, but it is seldom used."""
NO_LIMIT = 2**31
"""What says that an answer may fill the model's context."""


def tokens_of(job: NewJob) -> int:
    """Guess a job's tokens: a quarter of its input's characters, and the most that it may draw."""
    told = json.loads(job.input)
    parameters = told.get("parameters") or {}
    prompt = len(job.input) // CHARACTERS_PER_TOKEN
    return prompt + max(1, job.row_count) * _drawn(parameters)


def _drawn(parameters: dict[str, Any]) -> int:
    most = parameters.get("max_tokens")
    most = most if isinstance(most, int) and most < NO_LIMIT else UNSAID_TOKENS
    choices = parameters.get("n")
    return min(most, LIKELY_MOST_TOKENS) * (choices if isinstance(choices, int) else 1)
