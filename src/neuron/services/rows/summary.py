"""What is told of a job's rows together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from statistics import fmean
from typing import Any

from .scoring import Metric, perplexity

RowObject = Mapping[str, Any]


def counts(rows: Collection[RowObject]) -> dict[str, int]:
    """Return how many of the rows failed, and their tokens in all."""
    return {
        "rows_failed": sum("error" in row for row in rows),
        "tokens_generated": total_of("tokens_generated", rows),
        "prompt_tokens": total_of("prompt_tokens", rows),
    }


def total_of(name: str, rows: Collection[RowObject]) -> int:
    """Return the sum of one number over the rows that have it."""
    return sum(row.get(name, 0) for row in rows)


def mean_scores(rows: Collection[RowObject]) -> dict[str, float]:
    """Return each metric's mean over the rows that were scored, and how many those are.

    Perplexity is that of all references as one text: of their tokens' mean likelihood.
    """
    scored = [row for row in rows if "scores" in row]
    means: dict[str, float] = {"rows_scored": len(scored)}
    for metric in (Metric.EXACT_MATCH, Metric.F1):
        if values := [row["scores"][metric] for row in scored if metric in row["scores"]]:
            means[metric.value] = fmean(values)
    if tokens := total_of("reference_tokens", scored):
        logprob = sum(row.get("reference_logprob", 0.0) for row in scored)
        means[Metric.PERPLEXITY.value] = perplexity(logprob, tokens)
    return means
