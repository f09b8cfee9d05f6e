"""From a request's output tensors to the job's output."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from ...errors import InvalidInputError
from ...models.job import JobOutput
from .batcher import RowRequest
from .labels import label_scores
from .signature import Signature
from .tensors import RowTensors, to_json

MAX_ANSWER_BYTES = 48_000_000
"""What an answer may have as JSON: it travels to the worker in one frame."""
MAX_STREAMED_BYTES = 3_000_000
"""What a streamed one may have: it travels to CORTEX in one message."""
_LEAST_BYTES = 2
"""Of a number in an array, its comma included."""


def limit_of(*, streamed: bool) -> int:
    """How many bytes of JSON an answer may have."""
    return MAX_STREAMED_BYTES if streamed else MAX_ANSWER_BYTES


class AnswerWriter:
    """Knows what the model answers; may be used by several threads."""

    def __init__(self, model: str, signature: Signature) -> None:
        self._model = model
        self._signature = signature

    def write(
        self, request: RowRequest, single: bool, began: float, streamed: bool = False
    ) -> JobOutput:
        """The answer: one object for a `single` row, else a list in the rows' order. Blocks.

        `began` is when the job's reading began, on the monotonic clock.

        Raises:
            InvalidInputError: the answer is larger than a result may be.
        """
        limit = limit_of(streamed=streamed)
        outputs = [output for output in request.answers if output is not None]
        self._check_tensors(outputs, limit)
        strange = 0
        results = []
        for output in outputs:
            row, count = self._row(output)
            results.append(row)
            strange += count
        result = results[0] if single else results
        self._check_size(len(msgspec.json.encode(result)), limit)
        metadata: dict[str, Any] = {
            "model": self._model,
            "runtime": "pytorch",
            "rows": len(results),
            "largest_batch": request.largest_batch,
        }
        if strange:
            metadata["non_finite_values"] = strange
        return JobOutput(
            result=result,
            metadata=metadata,
            metrics=_metrics(request, began),
        )

    def _row(self, output: RowTensors) -> tuple[dict[str, Any], int]:
        result: dict[str, Any] = {}
        strange = 0
        for spec in self._signature.outputs:
            tensor = output[spec.name]
            told = label_scores(tensor, spec) if spec.labels else to_json(tensor, spec)
            result[spec.name] = told[0]
            strange += told[1]
        return result, strange

    def _check_tensors(self, outputs: list[RowTensors], limit: int) -> None:
        """Refuse what is too large in any case, before it is written out."""
        size = 0
        for spec in self._signature.outputs:
            if spec.top_k is None:
                each = spec.torch_dtype.itemsize if spec.encoding == "base64" else _LEAST_BYTES
                size += each * sum(output[spec.name].numel() for output in outputs)
        self._check_size(size, limit)

    def _check_size(self, size: int, limit: int) -> None:
        if size > limit:
            raise InvalidInputError(
                f"the answer of {self._model} would have more than {limit} bytes: "
                "send fewer rows in a job"
            )


def _metrics(request: RowRequest, began: float) -> dict[str, Any]:
    started = request.started or request.submitted
    finished = request.finished or started
    return {
        "latency_ms": _ms(time.monotonic() - began),
        "prepare_ms": _ms(request.submitted - began),
        "queue_ms": _ms(started - request.submitted),
        "compute_ms": _ms(finished - started),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
