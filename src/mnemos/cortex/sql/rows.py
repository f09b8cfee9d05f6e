"""The rows of a batch or an evaluation that have ended: lines of the job's log."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..records import FinishedRow
from .transaction import Row, Transaction

ROW_JOB_TYPES = frozenset({"batch_inference", "evaluation"})
"""Jobs whose finished rows stay when an attempt ends; only the others begin again."""

_ROWS = """
SELECT data FROM job_events WHERE job_seq = :seq AND kind = 'row' ORDER BY sequence
"""


def row_event(row: FinishedRow, attempt: int) -> str:
    """The line of the log for a finished row."""
    return f'{{"index":{row.index},"result":{row.result},"attempt":{attempt}}}'


def finished_rows(tx: Transaction, job: Row) -> Sequence[FinishedRow]:
    """Return what earlier attempts finished, once for each row.

    Attempts from before a person's retry do not count.
    """
    if job["job_type"] not in ROW_JOB_TYPES or job["attempt"] <= job["void_attempts"] + 1:
        return ()
    latest: dict[int, FinishedRow] = {}
    for line in tx.all(_ROWS, {"seq": job["seq"]}):
        told = json.loads(line["data"])
        if told["attempt"] > job["void_attempts"]:
            latest[told["index"]] = FinishedRow(told["index"], _text(told["result"]))
    return sorted(latest.values(), key=lambda row: row.index)


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
