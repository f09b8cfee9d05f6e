"""What attempts brought: results, and how many tokens that took."""

from __future__ import annotations

import json

from ..lease_core import Keep
from ..records import Report
from .jobs_loaded import LoadedJob
from .many import INT, TEXT, Many, Values
from .transaction import Transaction

_STORE = Many(
    """
INSERT INTO job_results (job_seq, result, output_metadata, metrics)
VALUES (:seq, :result, :output_metadata, :metrics)
ON CONFLICT (job_seq) DO UPDATE SET result = excluded.result,
    output_metadata = excluded.output_metadata, metrics = excluded.metrics
""",
    seq=INT,
    result=TEXT,
    output_metadata=TEXT,
    metrics=TEXT,
)


class Results:
    """The results of one operation, to be written together."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._rows: list[Values] = []

    def keep(self, loaded: LoadedJob, said: Report, keep: Keep) -> None:
        """Keep as much of a report's output as was decided."""
        if keep is Keep.NOTHING or (keep is Keep.PARTIAL and said.result is None):
            return
        self._rows.append((loaded.seq, said.result, said.output_metadata, said.metrics))
        generated = _tokens_generated(said.output_metadata)
        if generated:
            self._tx.measured.tokens += generated
            self._tx.count("total", "tokens", generated)

    def write(self) -> None:
        """Write what was kept; called once, last."""
        self._tx.write(_STORE, self._rows)


def _tokens_generated(output_metadata: str) -> int:
    if '"tokens_generated"' not in output_metadata:
        return 0
    generated = json.loads(output_metadata).get("tokens_generated", 0)
    return generated if isinstance(generated, int) and 0 < generated < 2**40 else 0
