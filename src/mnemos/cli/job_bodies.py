"""From the flags of `mnemos jobs submit` to a job as the API takes it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import UsageFault
from .names import split_model_name
from .sampling import answer_parameters, sampling_parameters

METRICS = ("exact_match", "f1", "perplexity")


def job_body(given: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """Build the body. Raises UsageFault for flags that make no job together."""
    family, version = split_model_name(given["model"])
    body: dict[str, Any] = {
        "model": {"family": family},
        "input": {**_asked(given), "parameters": _parameters(given, stream=stream)},
        "priority": given["priority"],
        "timeout_seconds": given["timeout_seconds"],
    }
    job_type = given["job_type"] or ("batch_inference" if given["inputs"] else "inference")
    if job_type != "inference":
        body["job_type"] = job_type
    if version:
        body["model"]["version"] = version
    if given["runtime"]:
        body["model"]["runtime"] = given["runtime"]
    if given["system"]:
        body["input"]["context"] = given["system"]
    if given["idempotency_key"]:
        body["idempotency_key"] = given["idempotency_key"]
    return body


def _parameters(given: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    parameters = {**sampling_parameters(given), **answer_parameters(given)}
    if given["metric"]:
        parameters["metrics"] = list(given["metric"])
    if stream:
        parameters["stream"] = True
    return parameters


def _asked(given: Mapping[str, Any]) -> dict[str, Any]:
    prompt: str | None = given["prompt"]
    inputs: Path | None = given["inputs"]
    if (prompt is None) == (inputs is None):
        raise UsageFault("Give either --prompt or --inputs.", field="input")
    if inputs is not None:
        return {"inputs": _read_rows(inputs)}
    text = sys.stdin.read() if prompt == "-" else str(prompt)
    if not text.strip():
        raise UsageFault("The prompt is empty.", field="input.prompt")
    return {"prompt": text}


def _read_rows(file: Path) -> list[Any]:
    """One JSON value a line; blank lines are passed over."""
    rows: list[Any] = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UsageFault(
                f"{file}, line {number}: not JSON: {error}.", field="input.inputs"
            ) from error
    if not rows:
        raise UsageFault(f"{file} holds no row.", field="input.inputs")
    return rows
