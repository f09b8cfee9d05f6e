"""Rows as people write them, and what the engine is asked for each."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from neuron.errors import InvalidInputError
from neuron.models.job import JobInput, JobSpec
from neuron.services.rows.reading import RowReader


def job(
    *rows: Any,
    job_type: str = "batch_inference",
    runtime: str = "transformers",
    context: str | None = None,
    **parameters: Any,
) -> JobSpec:
    return JobSpec.model_validate(
        {
            "job_id": "job_1",
            "job_type": job_type,
            "model": {"family": "tiny", "version": "1", "runtime": runtime},
            "input": {"inputs": list(rows), "parameters": parameters, "context": context},
        }
    )


def request(row: Any, **how: Any) -> dict[str, Any]:
    """What the engine is asked for a single row."""
    return RowReader(job(row, **how)).read(0).request.model_dump(exclude_none=True)


def test_a_text_is_a_prompt() -> None:
    assert request("Hi", context="Be kind.", max_tokens=5) == {
        "prompt": "Hi",
        "parameters": {"max_tokens": 5},
        "context": "Be kind.",
    }


def test_a_row_s_own_parameters_and_context_come_first() -> None:
    row = {"prompt": "Hi", "parameters": {"temperature": 0, "stream": True}, "context": "Be brief."}

    assert request(row, context="Be kind.", temperature=1, max_tokens=5, stream=True) == {
        "prompt": "Hi",
        "parameters": {"temperature": 0, "max_tokens": 5},
        "context": "Be brief.",
    }


def test_a_row_may_be_a_conversation() -> None:
    turns = [{"role": "user", "content": "Hi"}]

    assert request({"messages": turns, "prompt": None})["messages"] == turns


@pytest.mark.parametrize("row", [{"x": [1.0]}, "a text"])
def test_what_is_no_prompt_is_tensors_to_a_custom_model(row: Any) -> None:
    assert request(row, runtime="pytorch", stream=True) == {"inputs": [row], "parameters": {}}


def test_a_custom_model_may_be_asked_by_prompt() -> None:
    assert request({"prompt": "Hi", "id": 1}, runtime="pytorch")["prompt"] == "Hi"


def test_only_texts_beside_tensors_are_their_id_and_their_reference() -> None:
    row = {"id": "r1", "x": [1.0], "reference": "cat"}
    reader = RowReader(job(row, job_type="evaluation", runtime="pytorch"))

    assert reader.read(0).request.inputs == [{"x": [1.0]}]
    assert (reader.echo(0), reader.read(0).references) == ({"id": "r1"}, ["cat"])
    assert request({"id": 7, "x": [1.0]}, runtime="pytorch")["inputs"] == [{"id": 7, "x": [1.0]}]


@pytest.mark.parametrize("reference", ["Paris", ["Paris", "Lutetia"]])
def test_an_evaluation_reads_references(reference: Any) -> None:
    row = {"prompt": "Where?", "reference": reference}
    reader = RowReader(job(row, job_type="evaluation", metrics=["f1"]))
    read = reader.read(0)

    assert read.reference == reference
    assert read.references[0] == "Paris"
    assert read.score_request is None
    assert read.request.parameters == {}


def test_perplexity_asks_for_the_first_reference_and_nothing_else() -> None:
    row = {"prompt": "Where?", "reference": ["Paris", "Lutetia"]}
    how: dict[str, Any] = {"max_tokens": 5, "choice": ["a"], "raw": True, "adapter": "style:1"}
    read = RowReader(job(row, job_type="evaluation", metrics=["perplexity"], **how)).read(0)

    assert read.score_request is not None
    assert read.score_request.model_dump(exclude_none=True) == {
        "prompt": "Where?",
        "parameters": {"raw": True, "adapter": "style:1", "target": "Paris", "logprobs": 0},
    }


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (5, "inputs[0]: a row is a text or an object"),
        ("", "inputs[0].prompt: String should have at least 1 character"),
        ({}, "inputs[0]: give exactly one of prompt and messages"),
        ({"prompt": "a", "messages": [{}]}, "inputs[0]: give exactly one of prompt and messages"),
        ({"messages": [{"role": "x", "content": ""}]}, "inputs[0].messages.0.role: "),
        ({"prompt": "a", "promt": "b"}, "inputs[0].promt: a row has no such thing"),
        ({"prompt": "a", "parameters": 5}, "inputs[0].parameters: expected an object"),
        ({"prompt": "a", "parameters": {"n": 99}}, "inputs[0].parameters.n: "),
        ({"prompt": "a", "parameters": {"metrics": ["f1"]}}, "inputs[0]: parameters.metrics goes"),
        ({"prompt": "a", "id": 1.5}, "inputs[0].id: an id is a text or a whole number"),
        ({"prompt": "a", "id": True}, "inputs[0].id: an id is a text or a whole number"),
        ({"prompt": "a", "reference": "b"}, "inputs[0].reference: only evaluation jobs"),
    ],
)
def test_a_row_of_a_batch_is_refused_with_its_place(row: Any, sentence: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        RowReader(job(row)).read(0)
    assert refusal.value.message.startswith(sentence)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("Hi", "inputs[0].reference is missing"),
        ({"prompt": "a", "reference": []}, "inputs[0].reference: expected a text or a list"),
        ({"prompt": "a", "reference": [1]}, "inputs[0].reference: expected a text or a list"),
        ({"prompt": "a", "reference": ""}, "inputs[0].reference: an empty text"),
        ({"prompt": "a", "reference": "b", "parameters": {"n": 2}}, "inputs[0].parameters.n: "),
        (
            {"prompt": "a", "reference": "b", "parameters": {"target": "c"}},
            "inputs[0].parameters.target: ",
        ),
    ],
)
def test_a_row_of_an_evaluation_is_refused_with_its_place(row: Any, sentence: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        RowReader(job(row, job_type="evaluation", metrics=["perplexity"])).read(0)
    assert refusal.value.message.startswith(sentence)


@pytest.mark.parametrize("metrics", ["f1", [], ["f1", "bleu"], [1], {"f1": 1}])
def test_metrics_that_there_are_not_are_refused(metrics: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected a list of some of exact_match, f1"):
        RowReader(job("a", job_type="evaluation", metrics=metrics))


def test_a_batch_measures_nothing() -> None:
    with pytest.raises(InvalidInputError, match="only evaluation jobs measure"):
        RowReader(job("a", metrics=["f1"]))


def test_a_job_without_rows_is_refused() -> None:
    spec = job("a").model_copy(update={"input": JobInput(prompt="Hi")})

    with pytest.raises(InvalidInputError, match="batch_inference has its rows in inputs"):
        RowReader(spec)


def test_metrics_stand_beside_rows_only_and_nothing_else_slips_in() -> None:
    assert JobInput(inputs=["a"], parameters={"metrics": ["f1"], "n": 2}).sampling.n == 2
    with pytest.raises(ValidationError, match="metrics goes with inputs"):
        JobInput(prompt="a", parameters={"metrics": ["f1"]})
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        JobInput(inputs=["a"], parameters={"metric": ["f1"]})
