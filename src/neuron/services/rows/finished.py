"""The rows that have ended, and the output they make."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ...clients.cortex_client import SENDABLE_BYTES
from ...errors import InvalidInputError
from ...models.job import JobOutput, JobSpec, JobType, RowResult
from .summary import counts, mean_scores, total_of

LIMIT_BYTES = 10 * 1024 * 1024
"""What the rows may have as JSON: the next attempt is given all of them in one message."""
ROW_LIMIT_BYTES = SENDABLE_BYTES - 64 * 1024
"""What one row may have: it is kept in CORTEX as soon as it has ended."""
_COMMA = 1
_NULL = len("null,")


def check_row(result: dict[str, Any]) -> None:
    """Raise where a row's result is too large to be kept.

    Raises:
        InvalidInputError: it costs the row only.
    """
    size = _size(result)
    if size > ROW_LIMIT_BYTES:
        raise InvalidInputError(
            f"the answer to this row has {size} bytes, and at most {ROW_LIMIT_BYTES} are kept"
        )


class FinishedRows:
    """One attempt's rows, those of earlier attempts included; `clock` gives monotonic seconds."""

    def __init__(
        self, job: JobSpec, done: Sequence[RowResult], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._job = job
        self._total = len(job.input.inputs or ())
        self._clock = clock
        self._began = clock()
        self._results: dict[int, dict[str, Any]] = {}
        self._bytes = _NULL * self._total
        for row in done:
            if row.index < self._total and row.index not in self._results:
                self._put(row)
        self._resumed = frozenset(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __contains__(self, index: int) -> bool:
        return index in self._results

    @property
    def size_bytes(self) -> int:
        """What the result has as JSON by now, within a byte."""
        return self._bytes

    def add(self, row: RowResult) -> None:
        """Take a row in.

        Raises:
            InvalidInputError: as check_size(); the row is in none the less.
        """
        self._put(row)
        self.check_size()

    def check_size(self) -> None:
        """Raise where the rows have outgrown what a result may have.

        Raises:
            InvalidInputError: no worker could deliver them.
        """
        if self._bytes > LIMIT_BYTES:
            raise InvalidInputError(
                f"the answers to the rows have more than {LIMIT_BYTES} bytes together: "
                "send fewer rows in a job"
            )

    def output(self) -> JobOutput:
        """Return the rows in the inputs' order, null for those that have not ended."""
        results = self._results.values()
        metadata: dict[str, Any] = {
            "model": f"{self._job.model.family}:{self._job.model.version}",
            "runtime": self._job.model.runtime,
            "rows": self._total,
            "rows_resumed": len(self._resumed),
            **counts(results),
        }
        if self._job.job_type is JobType.EVALUATION:
            metadata["scores"] = mean_scores(results)
        rows = [self._results.get(index) for index in range(self._total)]
        return JobOutput(result=rows, metadata=metadata, metrics=self._metrics())

    def _put(self, row: RowResult) -> None:
        self._results[row.index] = row.result
        self._bytes += _size(row.result) + _COMMA - _NULL

    def _metrics(self) -> dict[str, float]:
        """What this attempt did, rows that it found done aside."""
        new = [row for index, row in self._results.items() if index not in self._resumed]
        seconds = max(self._clock() - self._began, 1e-6)
        return {
            "latency_ms": round(1000 * seconds, 2),
            "tokens_per_second": round(total_of("tokens_generated", new) / seconds, 2),
            "rows_per_second": round(len(new) / seconds, 2),
        }


def _size(result: dict[str, Any]) -> int:
    return len(msgspec.json.encode(result, enc_hook=str))
