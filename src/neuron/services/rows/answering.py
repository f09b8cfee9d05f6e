"""Asking the engine about one row, and telling what it brought."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from ...errors import EngineCrashedError, InvalidInputError, NeuronError
from ...models.job import JobInput, JobOutput
from ...runtimes.base import Generation
from .reading import Row, RowReader
from .scoring import Metric, exact_match, f1, perplexity

Generate = Callable[[JobInput], AsyncGenerator[Generation, None]]

_COMPARISONS = {Metric.EXACT_MATCH: exact_match, Metric.F1: f1}
_TOLD = (
    "finish_reason",
    "stop_reason",
    "tokens_generated",
    "prompt_tokens",
    "logprobs",
    "choices",
    "target_logprob",
    "non_finite_values",
)
"""What a row's result repeats of its answer's metadata, where it is there."""
_ALONE = "inputs[0]"
"""The place that a runtime names of a row of tensors, which it is sent alone."""


class RowAnswerer:
    """Makes rows' result objects; many may be made at once."""

    def __init__(self, reader: RowReader, generate: Generate) -> None:
        self._reader = reader
        self._generate = generate

    async def answer(self, index: int) -> dict[str, Any]:
        """Return a row's result object; cancelling closes its generation.

        Raises:
            NeuronError: the row cannot be read or scored, or what the engine raised.
        """
        row = self._reader.read(index)
        if self._reader.metrics:
            return row.echo | await self._evaluate(row)
        return row.echo | await self._ask(row.request)

    def failed(self, index: int, error: NeuronError) -> dict[str, Any]:
        """Return the result object of a row that brought nothing but an error."""
        message = error.message
        if message.startswith(_ALONE):
            message = f"inputs[{index}]{message.removeprefix(_ALONE)}"
        told = {"code": error.code.value, "message": message}
        return self._reader.echo(index) | {"error": told}

    async def _evaluate(self, row: Row) -> dict[str, Any]:
        told: dict[str, Any] = {"result": None, "reference": row.reference}
        scores: dict[str, float] = {}
        if row.score_request is not None:
            logprob, tokens = await self._score(row.score_request)
            scores[Metric.PERPLEXITY.value] = perplexity(logprob, tokens)
            told |= {"reference_logprob": logprob, "reference_tokens": tokens}
        if comparisons := [metric for metric in self._reader.metrics if metric in _COMPARISONS]:
            told |= await self._ask(row.request)
            text = text_of(told["result"])
            for metric in comparisons:
                scores[metric.value] = _COMPARISONS[metric](text, row.references)
        return told | {"scores": scores}

    async def _score(self, request: JobInput) -> tuple[float, int]:
        """The reference's log-probability, and how many tokens it has."""
        metadata = (await self._output(request)).metadata
        if "target_logprob" not in metadata:
            raise InvalidInputError("perplexity: the model's runtime scores no given texts")
        return metadata["target_logprob"], metadata["tokens_generated"]

    async def _ask(self, request: JobInput) -> dict[str, Any]:
        """What a result object tells of the answer."""
        output = await self._output(request)
        result = output.result if request.inputs is None else output.result[0]
        return {"result": result} | _present(output.metadata)

    async def _output(self, request: JobInput) -> JobOutput:
        async with aclosing(self._generate(request)) as generations:
            async for generation in generations:
                if generation.output is not None:
                    return generation.output
        raise EngineCrashedError("the engine ended a generation without an output")


def text_of(result: Any) -> str:
    """Return what an answer says: a text itself, or a classifier's best label.

    Raises:
        InvalidInputError: it says nothing in words.
    """
    match result:
        case str():
            return result
        case [{"label": str(label)}, *_]:
            return label
        case {**outputs} if len(outputs) == 1:
            return text_of(next(iter(outputs.values())))
        case _:
            raise InvalidInputError(
                "exact_match and f1 compare text and labels, and the model answers with neither"
            )


def _present(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: metadata[name] for name in _TOLD if metadata.get(name) is not None}
