"""Answers that are too large for a message: put into ENGRAM, and reported by reference."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Protocol

import msgspec
import structlog

from ..errors import NeuronError, StorageUnavailableError
from ..models.job import JobOutput, JobResult, ResultReference
from ..models.lease import AttemptRef, Renewal, Verdict
from ..utils.retry import Backoff
from .identity import Registrar

logger = structlog.get_logger(__name__)

PARALLEL_WRITES = 2
"""More would hold more answers in memory as JSON."""
LONGEST_PAUSE_SECONDS = 10.0


class ObjectWriter(Protocol):
    """Writes objects; EngramClient is one."""

    async def write_object(self, bucket: str, key: str, data: bytes) -> None: ...


class RenewingClient(Protocol):
    """Says whether an attempt still counts."""

    async def renew_leases(
        self, worker_id: str, refs: list[AttemptRef], within_seconds: float | None = None
    ) -> Renewal: ...


class BigResults:
    """Puts answers into `bucket` at jobs/<job>/<attempt>/result.json; none above `limit_bytes`."""

    def __init__(
        self,
        objects: ObjectWriter,
        client: RenewingClient,
        registrar: Registrar,
        *,
        bucket: str,
        limit_bytes: int,
    ) -> None:
        self._objects = objects
        self._client = client
        self._registrar = registrar
        self._bucket = bucket
        self.limit_bytes = limit_bytes
        self._gate = asyncio.Semaphore(PARALLEL_WRITES)

    async def put_away(self, result: JobResult) -> JobResult | None:
        """Store the answer; return the result that refers to it.

        While ENGRAM is out of reach it is tried again, for as long as the attempt counts; None
        says that it no longer does. May be cancelled: the object shows whole or not at all, and
        the same attempt may put it there again.

        Raises:
            NeuronError: this worker may not write there.
        """
        assert result.output is not None
        ref = AttemptRef(result.job_id, result.attempt)
        key = f"jobs/{ref.job_id}/{ref.attempt}/result.json"
        backoff = Backoff(initial=0.2, maximum=LONGEST_PAUSE_SECONDS)
        while True:
            try:
                async with self._gate:
                    written = await self._write(key, result.output.result)
            except StorageUnavailableError as error:
                logger.warning("result_not_stored", job_id=ref.job_id, error=error.message)
                if not await self._counts(ref):
                    return None
                await asyncio.sleep(backoff.next_delay())
            else:
                logger.info("result_stored", job_id=ref.job_id, size_bytes=written.size_bytes)
                return _referring(result, result.output, written)

    async def _write(self, key: str, answer: Any) -> ResultReference:
        data, sha256 = await asyncio.to_thread(_encoded, answer)
        await self._objects.write_object(self._bucket, key, data)
        return ResultReference(engram=f"{self._bucket}/{key}", size_bytes=len(data), sha256=sha256)

    async def _counts(self, ref: AttemptRef) -> bool:
        """Whether CORTEX would still take the result, as far as can be told."""
        try:
            renewal = await self._client.renew_leases(self._registrar.worker_id, [ref])
        except NeuronError:
            return True
        return renewal.verdicts.get(ref) is Verdict.ACCEPTED


def _encoded(answer: Any) -> tuple[bytes, str]:
    data = msgspec.json.encode(answer, enc_hook=str)
    return data, hashlib.sha256(data).hexdigest()


def _referring(result: JobResult, output: JobOutput, reference: ResultReference) -> JobResult:
    lighter = output.model_copy(update={"result": None, "result_reference": reference})
    return result.model_copy(update={"output": lighter})
