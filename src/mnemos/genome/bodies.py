"""Reading what was sent: a model's description may be long, and is checked in a thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from ..http import describe_validation_errors, invalid_input
from .answers import ValidationProblem, ValidationReport
from .models import ModelSpec

MOST_PROBLEMS_TOLD = 100

_SCHEMA = ModelSpec.model_json_schema(ref_template="#/components/schemas/{model}")
SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {name: part for name, part in _SCHEMA.items() if name != "$defs"}
            }
        },
    }
}
"""What OpenAPI says about a body that is read here."""
ANY_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"description": "A model's description."}}},
    }
}
"""The same where a body may be wrong: what is wrong with it is the answer."""


async def read_spec(request: Request) -> ModelSpec:
    """Read a model's description. Raises what becomes a 422."""
    body = await _read_body(request)
    try:
        return await asyncio.to_thread(lambda: ModelSpec.model_validate(_parse(body)))
    except ValidationError as error:
        raise RequestValidationError(
            error.errors(include_input=False, include_url=False)
        ) from error


async def read_report(request: Request) -> ValidationReport:
    """Read what may be a description, and say what is wrong with it."""
    body = await _read_body(request)
    return await asyncio.to_thread(lambda: check_description(_parse(body)))


def check_description(body: Any) -> ValidationReport:
    """Say everything that is wrong with a description, or the first hundred things."""
    try:
        ModelSpec.model_validate(body)
    except ValidationError as error:
        found = located(error.errors(include_input=False, include_url=False))
        told = (describe_validation_errors([each]) for each in found[:MOST_PROBLEMS_TOLD])
        problems = [ValidationProblem(field=field, message=sentence) for sentence, field in told]
        more = len(found) - MOST_PROBLEMS_TOLD
        if more > 0:
            problems.append(
                ValidationProblem(field=None, message=f"There are {more} more problems.")
            )
        return ValidationReport(valid=False, errors=problems)
    return ValidationReport(valid=True)


def located(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Pydantic's errors, with the place of those that were found by checks of the whole."""
    return [
        {**each, "loc": (*each["loc"], *each["ctx"]["field"].split("."))}
        if each["type"] == "field"
        else dict(each)
        for each in errors
    ]


async def _read_body(request: Request) -> bytes:
    # A page in somebody's browser can send other types to this machine without being asked.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if body and kind != "application/json":
        raise invalid_input("The body must be sent as application/json.")
    return body


def _parse(body: bytes) -> Any:
    if not body:
        raise invalid_input("The body is missing.")
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        raise invalid_input(f"The body is not valid JSON: {error.msg}.") from error
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, "The body cannot be read") from error  # told in common words
