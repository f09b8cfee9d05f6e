"""Tensors that a job keeps in ENGRAM, fetched before an engine sees the job.

An engine holds no credentials, so what a row refers to is put into it here:
{"engram": "bucket/key", "dtype": …, "shape": …} becomes {"b64": …, "dtype": …, "shape": …}.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mnemos.engram.errors import InvalidKeyError
from mnemos.engram.keys import check_bucket, check_key

from ..errors import InvalidInputError, NeuronError
from ..models.job import JobInput

MAX_JOB_BYTES = 32 * 1024 * 1024
"""What all references of a job may bring; an object that is named twice counts twice."""
PARALLEL_READS = 4
_KEY = "engram"


class ObjectReader(Protocol):
    """Reads objects; EngramClient is one."""

    async def read_object(self, bucket: str, key: str, max_bytes: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Reference:
    row: int
    name: str
    value: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"inputs[{self.row}].{self.name}"


class InputReferences:
    """Resolves the references of jobs' rows; only objects in `buckets` may be read."""

    def __init__(self, objects: ObjectReader, buckets: Collection[str]) -> None:
        self._objects = objects
        self._buckets = frozenset(buckets)

    async def resolve(self, job_input: JobInput) -> JobInput:
        """The same input with the bytes of its references in their places.

        Without references it is `job_input` itself, and ENGRAM is not asked. References are
        tensors of rows; an "engram" anywhere else is left as it is.

        Raises:
            InvalidInputError: one names no object that jobs may read, or all together are larger
                than MAX_JOB_BYTES. The row is named.
            StorageUnavailableError: ENGRAM failed.
        """
        references = list(_references(job_input.inputs or []))
        if not references:
            return job_input
        names = [self._object_name(reference) for reference in references]
        fetch = _Fetch(self._objects)
        try:
            async with asyncio.TaskGroup() as group:
                reads = [
                    group.create_task(fetch.read(reference, *name))
                    for reference, name in zip(references, names, strict=True)
                ]
        except ExceptionGroup as failed:
            raise _first_neuron_error(failed) from failed
        return _filled(job_input, references, [read.result() for read in reads])

    def _object_name(self, reference: _Reference) -> tuple[str, str]:
        where, named = reference.where, reference.value[_KEY]
        if "b64" in reference.value:
            raise InvalidInputError(f"{where}: give {_KEY} or b64, not both")
        if not isinstance(named, str):
            raise InvalidInputError(f'{where}: {_KEY} is a text of the form "bucket/key"')
        bucket, _, key = named.partition("/")
        try:
            check_bucket(bucket)
            check_key(key)
        except InvalidKeyError as error:
            raise InvalidInputError(f"{where}: {error.message}") from error
        if bucket not in self._buckets:
            allowed = ", ".join(sorted(self._buckets)) or "none"
            raise InvalidInputError(
                f"{where}: this worker reads inputs from the buckets {allowed} only, not from "
                f"{bucket} (its operator can allow it with NEURON_INPUT_BUCKETS)"
            )
        return bucket, key


class _Fetch:
    """One job's reads, a few at once."""

    def __init__(self, objects: ObjectReader) -> None:
        self._objects = objects
        self._gate = asyncio.Semaphore(PARALLEL_READS)
        self._left = MAX_JOB_BYTES

    async def read(self, reference: _Reference, bucket: str, key: str) -> str:
        """The object as base64."""
        async with self._gate:
            try:
                data = await self._objects.read_object(bucket, key, self._left)
            except InvalidInputError as error:
                raise InvalidInputError(f"{reference.where}: {error.message}") from error
        self._left -= len(data)
        if self._left < 0:
            raise InvalidInputError(
                f"{reference.where}: with {bucket}/{key} the job's references hold more than "
                f"{MAX_JOB_BYTES} bytes: send fewer rows in a job"
            )
        return base64.b64encode(data).decode()


def _references(rows: list[Any]) -> Iterator[_Reference]:
    for place, row in enumerate(rows):
        if isinstance(row, dict):
            for name, value in row.items():
                if isinstance(value, dict) and _KEY in value:
                    yield _Reference(place, str(name), value)


def _filled(job_input: JobInput, references: list[_Reference], contents: list[str]) -> JobInput:
    rows = list(job_input.inputs or [])
    for reference, content in zip(references, contents, strict=True):
        tensor = {key: value for key, value in reference.value.items() if key != _KEY}
        rows[reference.row] = {**rows[reference.row], reference.name: {**tensor, "b64": content}}
    return job_input.model_copy(update={"inputs": rows})


def _first_neuron_error(group: ExceptionGroup[Exception]) -> Exception:
    for error in group.exceptions:
        if isinstance(error, NeuronError):
            return error
    return group.exceptions[0]
