"""What a submitted job is refused for, and by what name."""

from __future__ import annotations

from typing import Any

import pytest

from mnemos.cortex.api.schemas import Sampling
from mnemos.cortex.api.submission import parse_job, prepare
from mnemos.cortex.genome_lookup import (
    CatalogModel,
    CatalogUnavailableError,
    ModelUnknownError,
)
from mnemos.http import ApiError
from neuron.models.sampling import SamplingParameters


class Catalog:
    """A ModelCatalog of one model, which can be out of reach."""

    def __init__(self, *, reachable: bool = True) -> None:
        self.reachable = reachable

    async def find(self, family: str, version: str | None) -> CatalogModel:
        if not self.reachable:
            raise CatalogUnavailableError("GENOME cannot be reached at http://genome.")
        if family != "tiny" or version not in {None, "1", "2"}:
            raise ModelUnknownError(f"There is no model {family} {version}; tiny has 1 and 2.")
        return CatalogModel("tiny", version or "2", "transformers")


def body(**changes: Any) -> dict[str, Any]:
    return {"model": {"family": "tiny"}, "input": {"prompt": "Hi"}, **changes}


def nested(levels: int) -> list[Any]:
    outer: list[Any] = []
    for _ in range(levels):
        outer = [outer]
    return outer


async def refusal(given: Any, catalog: Catalog | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await prepare(parse_job(given), catalog or Catalog(), None)
    return caught.value


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"input": {"prompt": ""}}, "input.prompt"),
        ({"input": {}}, "input"),
        ({"input": {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}}, "input"),
        ({"input": {"messages": []}}, "input.messages"),
        ({"input": {"messages": [{"role": "god", "content": ""}]}}, "input.messages.0.role"),
        (
            {"input": {"prompt": "a", "parameters": {"max_tokens": 0}}},
            "input.parameters.max_tokens",
        ),
        (
            {"input": {"prompt": "a", "parameters": {"temperature": 3}}},
            "input.parameters.temperature",
        ),
        ({"input": {"prompt": "a", "parameters": {"heat": 1}}}, "input.parameters.heat"),
        (
            {"input": {"prompt": "a", "parameters": {"max_tokens": True}}},
            "input.parameters.max_tokens",
        ),
        (
            {"input": {"prompt": "a", "parameters": {"max_tokens": "5"}}},
            "input.parameters.max_tokens",
        ),
        ({"input": {"prompt": "a", "parameters": {"stop": [""]}}}, "input.parameters.stop.0"),
        ({"input": {"prompt": "a", "parameters": {"stop": 5}}}, "input.parameters.stop"),
        ({"metadata": {"a": nested(70)}}, "metadata"),
        ({"input": {"inputs": [nested(70)]}}, "input"),
        ({"priority": True}, "priority"),
        ({"input": {"prompt": "\ud800"}}, "input.prompt"),
        ({"metadata": {"a": "\ud800"}}, "metadata"),
        ({"metadata": {"a": float("nan")}}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"model": {"family": "../etc"}}, "model.family"),
        ({"model": {"family": "a..b"}}, "model.family"),
        ({"model": {"family": "tiny", "version": "../1"}}, "model.version"),
        ({"model": {"family": "tiny", "runtime": "abacus"}}, "model.runtime"),
        ({"model": {}}, "model.family"),
        ({"priority": 0}, "priority"),
        ({"priority": 11}, "priority"),
        ({"timeout_seconds": 3601}, "timeout_seconds"),
        ({"retry_config": {"max_retries": -1}}, "retry_config.max_retries"),
        ({"retry_config": {"retryable_codes": ["bad_luck"]}}, "retry_config.retryable_codes.0"),
        ({"group": ""}, "group"),
        ({"group": "a\nb"}, "group"),
        ({"group": "g" * 129}, "group"),
        ({"idempotency_key": "k" * 257}, "idempotency_key"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_bad_input_is_named(changes: dict[str, Any], field: str | None) -> None:
    error = await refusal(body(**changes))
    assert (error.status_code, error.code) == (422, "invalid_input")
    assert error.message.endswith(".")
    if field is not None:
        assert error.field == field


async def test_refusals_are_sentences_for_people() -> None:
    name = await refusal(body(model={"family": "../etc"}))
    assert name.message == (
        "model.family: must be 1 to 128 letters, digits, dots, dashes and underscores, "
        "a letter or digit first, and no '..'."
    )
    assert (await refusal([])).message == "The body must be an object."
    assert (await refusal({"model": 5, "input": {"prompt": "a"}})).message == (
        "model: must be an object."
    )
    assert (await refusal(body(priority=0))).message == (
        "priority: must be greater than or equal to 1."
    )
    assert (await refusal(body(surprise=1))).message == "surprise: is not a known field."


async def test_numbers_may_be_written_either_way() -> None:
    cool = body(input={"prompt": "a", "parameters": {"temperature": 1, "stop": "x"}})
    new = await prepare(parse_job(cool), Catalog(), None)
    assert new.input == '{"prompt":"a","parameters":{"temperature":1,"stop":"x"}}'


@pytest.mark.parametrize("given", [None, 1, "x", [], [1]])
async def test_what_is_no_object_is_refused(given: Any) -> None:
    assert (await refusal(given)).status_code == 422


async def test_an_unknown_model_is_a_404_that_names_what_exists() -> None:
    error = await refusal(body(model={"family": "tiny", "version": "9"}))
    assert (error.status_code, error.code) == (404, "model_not_found")
    assert "tiny has 1 and 2" in error.message


async def test_version_and_runtime_are_looked_up() -> None:
    new = await prepare(parse_job(body()), Catalog(), None)
    assert (new.version, new.runtime) == ("2", "transformers")
    latest = await prepare(
        parse_job(body(model={"family": "tiny", "version": "latest"})), Catalog(), None
    )
    assert latest.version == "2"


async def test_without_genome_a_job_must_name_both_and_is_taken_then() -> None:
    away = Catalog(reachable=False)
    error = await refusal(body(), away)
    assert (error.status_code, error.code) == (503, "unavailable")
    assert error.headers is not None
    named = body(model={"family": "tiny", "version": "7", "runtime": "vllm"})
    new = await prepare(parse_job(named), away, None)
    assert (new.version, new.runtime) == ("7", "vllm")
    with pytest.raises(ApiError, match=r"model\.version"):
        await prepare(parse_job(body()), None, None)


async def test_a_job_too_big_for_a_message_is_a_413() -> None:
    error = await refusal(body(input={"prompt": "a" * (4 * 1024 * 1024)}))
    assert (error.status_code, error.code) == (413, "too_large")


async def test_two_different_keys_are_refused_and_either_place_counts() -> None:
    job = parse_job(body(idempotency_key="a"))
    with pytest.raises(ApiError, match="idempotency_key"):
        await prepare(job, Catalog(), "b")
    assert (await prepare(job, Catalog(), None)).idempotency_key == "a"
    assert (await prepare(parse_job(body()), Catalog(), "b")).idempotency_key == "b"


async def test_the_request_hash_ignores_order_and_sees_every_change() -> None:
    first = body(metadata={"a": 1, "b": 2})
    turned = body(metadata={"b": 2, "a": 1})
    other = body(metadata={"a": 1, "b": 3})
    hashes = [
        (await prepare(parse_job(given), Catalog(), None)).request_hash
        for given in (first, turned, other)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_sampling_parameters_are_the_workers() -> None:
    ours, theirs = Sampling.model_fields, SamplingParameters.model_fields
    assert set(ours) == set(theirs)
    for name in set(ours) - {"stop", "stop_token_ids"}:
        assert ours[name].default == theirs[name].default, name
