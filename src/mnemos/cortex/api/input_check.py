"""Refusing a job whose input is not what its model's input schema asks for."""

from __future__ import annotations

from mnemos.http import ApiError, invalid_input, unavailable

from ..genome_lookup import CatalogModel
from ..input_schema.checker import (
    CheckTooSlowError,
    CheckUnavailableError,
    InputChecker,
    InputSchema,
    SchemaUnusableError,
)
from .schemas import JobSubmit


class InputCheck:
    """The check of the inputs of one request's jobs.

    Once one of them took too long, no more of that schema's are begun.
    """

    def __init__(self, checker: InputChecker) -> None:
        self._checker = checker
        self._slow: set[str] = set()

    async def check(self, job: JobSubmit, given: str, model: CatalogModel) -> None:
        """Check a job's input; `given` is the same as JSON text. Raises ApiError."""
        if model.input_schema is not None:
            await self._check(job, given, model, model.input_schema)

    async def _check(
        self, job: JobSubmit, given: str, model: CatalogModel, schema: InputSchema
    ) -> None:
        whose = f"the input schema of {model.family}:{model.version}"
        if schema.digest in self._slow:
            raise invalid_input(f"input: another took too long to check by {whose}.", "input")
        try:
            fault = await self._checker.check(
                schema,
                given,
                tensors=model.runtime == "pytorch",
                scored=job.job_type == "evaluation",
            )
        except SchemaUnusableError as error:
            raise invalid_input(f"input: {whose} cannot be used: {error.message}.") from error
        except CheckTooSlowError as error:
            self._slow.add(schema.digest)
            raise invalid_input(f"input: {error.message} by {whose}.", "input") from error
        except CheckUnavailableError as error:
            raise unavailable(error.message) from error
        if fault is not None:
            raise _refused(fault.pointer, fault.expected, whose)


def _refused(pointer: str, expected: str, whose: str) -> ApiError:
    return invalid_input(f"input: {pointer} {expected}, by {whose}.", "input")
