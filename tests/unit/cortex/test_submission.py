"""What a submitted job is refused for, and by what name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mnemos.cortex.api.schemas import JobSubmit, Sampling
from mnemos.cortex.api.submission import Preparation, parse_job
from mnemos.cortex.genome_lookup import (
    CatalogModel,
    CatalogUnavailableError,
    ModelUnknownError,
)
from mnemos.cortex.input_schema.checker import InputChecker
from mnemos.cortex.records import DesiredState, NewJob, WorkerRecord
from mnemos.http import ApiError
from neuron.models.sampling import SamplingParameters


class Workers:
    """A WorkerList of one worker that offers what it is told to."""

    def __init__(self, *job_types: str, lost: bool = False) -> None:
        self._worker = WorkerRecord(
            worker_id="wrk_a",
            instance_id="one",
            hostname="host",
            ip_address="127.0.0.1",
            version="1",
            capabilities=json.dumps({"job_types": job_types}),
            resources="{}",
            tags="{}",
            models="[]",
            status="idle",
            status_reason="",
            offered_memory_mb=0,
            offered_gpu_memory_mb=0,
            desired_state=DesiredState.ACTIVE,
            lost=lost,
            total_jobs_completed=0,
            total_jobs_failed=0,
            last_heartbeat=0,
            last_seen=0,
            registered_at=0,
        )

    async def list_workers(self) -> list[WorkerRecord]:
        return [self._worker]


class Catalog:
    """A ModelCatalog of a model and an adapter, which can be out of reach."""

    def __init__(self, *, reachable: bool = True) -> None:
        self.reachable = reachable

    async def find(self, family: str, version: str | None) -> CatalogModel:
        if not self.reachable:
            raise CatalogUnavailableError("GENOME cannot be reached at http://genome.")
        if family == "style" and version in {"1", "prod"}:
            return CatalogModel(family, "1", "transformers")
        if family != "tiny" or version not in {None, "1", "2"}:
            raise ModelUnknownError(f"There is no model {family} {version}; tiny has 1 and 2.")
        return CatalogModel("tiny", version or "2", "transformers", {"dtype": "a", "size": 1})


class Bare(Catalog):
    """The same without settings."""

    async def find(self, family: str, version: str | None) -> CatalogModel:
        return replace(await super().find(family, version), runtime_config={})


class Needy(Catalog):
    """The same with requirements."""

    async def find(self, family: str, version: str | None) -> CatalogModel:
        known = await super().find(family, version)
        return replace(known, min_memory_mb=1536, min_gpu_memory_mb=40960)


def preparation(catalog: Catalog | None, workers: Workers | None = None) -> Preparation:
    return Preparation(catalog, workers or Workers(), InputChecker())


async def prepare(job: JobSubmit, catalog: Catalog, key: str | None = None) -> NewJob:
    return await preparation(catalog).prepare(job, key)


def body(**changes: Any) -> dict[str, Any]:
    return {"model": {"family": "tiny"}, "input": {"prompt": "Hi"}, **changes}


def sampling(**parameters: Any) -> dict[str, Any]:
    return {"input": {"prompt": "a", "parameters": parameters}}


def nested(levels: int) -> list[Any]:
    outer: list[Any] = []
    for _ in range(levels):
        outer = [outer]
    return outer


async def refusal(given: Any, catalog: Catalog | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await prepare(parse_job(given), catalog or Catalog())
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
            {"input": {"prompt": "a", "parameters": {"max_tokens": -1}}},
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
        (sampling(n=0), "input.parameters.n"),
        (sampling(n=17), "input.parameters.n"),
        (sampling(logprobs=21), "input.parameters.logprobs"),
        (sampling(regex=""), "input.parameters.regex"),
        (sampling(choice=[]), "input.parameters.choice"),
        (sampling(choice=["a", ""]), "input.parameters.choice.1"),
        (sampling(adapter="style"), "input.parameters.adapter"),
        (sampling(target=""), "input.parameters.target"),
        (sampling(json_schema={"type": "no such"}), "input.parameters.json_schema"),
        (sampling(json_schema={"$ref": "http://x"}), "input.parameters.json_schema"),
        (sampling(json_schema={"a": nested(70)}), "input.parameters.json_schema"),
        (sampling(json_schema={}, regex="a"), "input.parameters"),
        (sampling(n=2, stream=True), "input.parameters"),
        (sampling(target="a", n=2), "input.parameters"),
        (sampling(target="a", choice=["a"]), "input.parameters"),
        (sampling(metrics=["f1"]), "input.parameters.metrics"),
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
    new = await prepare(parse_job(cool), Catalog())
    assert new.input == '{"prompt":"a","parameters":{"temperature":1,"stop":"x"}}'


@pytest.mark.parametrize("given", [None, 1, "x", [], [1]])
async def test_what_is_no_object_is_refused(given: Any) -> None:
    assert (await refusal(given)).status_code == 422


async def test_an_unknown_model_is_a_404_that_names_what_exists() -> None:
    error = await refusal(body(model={"family": "tiny", "version": "9"}))
    assert (error.status_code, error.code) == (404, "model_not_found")
    assert "tiny has 1 and 2" in error.message


async def test_version_and_runtime_are_looked_up() -> None:
    new = await prepare(parse_job(body()), Catalog())
    assert (new.version, new.runtime) == ("2", "transformers")
    latest = await prepare(
        parse_job(body(model={"family": "tiny", "version": "latest"})), Catalog()
    )
    assert latest.version == "2"


async def test_without_genome_a_job_must_name_both_and_is_taken_then() -> None:
    away = Catalog(reachable=False)
    error = await refusal(body(), away)
    assert (error.status_code, error.code) == (503, "unavailable")
    assert error.headers is not None
    named = body(model={"family": "tiny", "version": "7", "runtime": "vllm"})
    new = await prepare(parse_job(named), away)
    assert (new.version, new.runtime) == ("7", "vllm")
    with pytest.raises(ApiError, match=r"model\.version"):
        await preparation(None).prepare(parse_job(body()))


async def test_a_job_too_big_for_a_message_is_a_413() -> None:
    error = await refusal(body(input={"prompt": "a" * (4 * 1024 * 1024)}))
    assert (error.status_code, error.code) == (413, "too_large")


async def test_two_different_keys_are_refused_and_either_place_counts() -> None:
    job = parse_job(body(idempotency_key="a"))
    with pytest.raises(ApiError, match="idempotency_key"):
        await prepare(job, Catalog(), "b")
    assert (await prepare(job, Catalog())).idempotency_key == "a"
    assert (await prepare(parse_job(body()), Catalog(), "b")).idempotency_key == "b"


async def test_the_request_hash_ignores_order_and_sees_every_change() -> None:
    first = body(metadata={"a": 1, "b": 2})
    turned = body(metadata={"b": 2, "a": 1})
    other = body(metadata={"a": 1, "b": 3})
    hashes = [
        (await prepare(parse_job(given), Catalog(), "key")).request_hash
        for given in (first, turned, other)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_sampling_parameters_are_the_workers() -> None:
    ours, theirs = Sampling.model_fields, SamplingParameters.model_fields
    assert set(ours) == set(theirs)
    for name in set(ours) - {"stop", "stop_token_ids"}:
        assert ours[name].default == theirs[name].default, name


@pytest.mark.parametrize(
    "parameters",
    [
        {"n": 2, "logprobs": 0},
        {"json_schema": {"type": "object"}},
        {"regex": "[0-9]+", "stream": True},
        {"choice": ["yes", "no"]},
        {"target": "Paris", "logprobs": 5},
        {"adapter": "style:1"},
    ],
)
async def test_what_the_worker_takes_is_taken(parameters: dict[str, Any]) -> None:
    SamplingParameters.model_validate(parameters)
    new = await prepare(parse_job(body(**sampling(**parameters))), Catalog())
    assert json.loads(new.input)["parameters"] == parameters


async def test_guides_that_exclude_each_other_are_both_named() -> None:
    error = await refusal(body(**sampling(json_schema={}, choice=["a"])))
    assert error.message == "input.parameters: json_schema and choice exclude each other."


def rows(*inputs: Any, job_type: str = "evaluation", **changes: Any) -> dict[str, Any]:
    parameters = changes.pop("parameters", {})
    given = {"inputs": list(inputs), "parameters": parameters}
    return body(job_type=job_type, input=given, **changes)


GOOD = {"prompt": "1+1?", "reference": "2"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (body(job_type="evaluation"), "input.inputs: is missing; "),
        (body(job_type="batch_inference"), "input.inputs: is missing; "),
        (rows(GOOD, "text"), "input.inputs[1]: must be an object with a reference."),
        (rows(GOOD, {"prompt": "a"}), "input.inputs[1].reference: is missing; "),
        (rows({"prompt": "a", "reference": []}), "input.inputs[0].reference"),
        (rows({"prompt": "a", "reference": 5}), "input.inputs[0].reference"),
        (rows({"reference": "a"}), "input.inputs[0]: give exactly one of prompt and messages."),
        (rows({**GOOD, "messages": [{"role": "user", "content": "a"}]}), "input.inputs[0]: give"),
        (rows({**GOOD, "prompts": "a"}), "input.inputs[0].prompts: is not a known field."),
        (rows({**GOOD, "parameters": {"n": 0}}), "input.inputs[0].parameters.n: "),
        (rows({**GOOD, "parameters": {"n": 2}}), "input.inputs[0].parameters.n: an evaluation "),
        (rows(GOOD, parameters={"target": "a"}), "input.inputs[0].parameters.target: an eval"),
        (rows(GOOD, parameters={"metrics": []}), "input.parameters.metrics: "),
        (rows(GOOD, parameters={"metrics": ["bleu"]}), "input.parameters.metrics.0: "),
        (
            rows({**GOOD, "reference": ["", "a"]}, parameters={"metrics": ["perplexity"]}),
            "input.inputs[0].reference: an empty text has no perplexity.",
        ),
        (rows("a", 5, job_type="batch_inference"), "input.inputs[1]: must be a text or an object."),
        (rows("", job_type="batch_inference"), "input.inputs[0]: must be a text or an object."),
        (rows(GOOD, job_type="batch_inference"), "input.inputs[0].reference: is not a known"),
        (rows({}, job_type="batch_inference"), "input.inputs[0]: give exactly one"),
        (
            rows({"prompt": "a", "parameters": {"regex": "a"}}, parameters={"choice": ["a"]})
            | {"job_type": "batch_inference"},
            "input.inputs[0].parameters: regex and choice exclude each other.",
        ),
        (rows({"x": 1}, job_type="batch_inference"), "input.inputs[0]"),
        (
            rows({"x": 1}, model={"family": "tiny", "runtime": "pytorch"}),
            "input.inputs[0].reference: is missing; ",
        ),
    ],
)
async def test_a_bad_row_is_named(given: dict[str, Any], message: str) -> None:
    error = await refusal(given)
    assert error.code == "invalid_input"
    assert error.message.startswith(message)
    assert error.message.startswith(str(error.field))


@pytest.mark.parametrize(
    "given",
    [
        rows(GOOD, {"messages": [{"role": "user", "content": "a"}], "reference": ["a", "b"]}),
        rows({**GOOD, "id": 5, "context": "c", "parameters": {"max_tokens": 3}}),
        rows(GOOD, parameters={"metrics": ["exact_match", "perplexity"], "max_tokens": 4}),
        rows("a", {"prompt": "b", "id": "x", "context": None}, job_type="batch_inference"),
        rows(
            {"x": [1.5]}, job_type="batch_inference", model={"family": "tiny", "runtime": "pytorch"}
        ),
        rows({"x": 1, "reference": "a"}, model={"family": "tiny", "runtime": "pytorch"}),
    ],
)
async def test_good_rows_are_taken_and_counted(given: dict[str, Any]) -> None:
    new = await prepare(parse_job(given), Catalog())
    assert new.row_count == len(given["input"]["inputs"])


@pytest.mark.parametrize("job_type", ["training", "fine_tuning"])
async def test_training_needs_a_worker_that_offers_it(job_type: str) -> None:
    job = parse_job(body(job_type=job_type))
    for workers in (Workers(), Workers("inference"), Workers(job_type, lost=True)):
        with pytest.raises(ApiError, match=f"runs jobs of type {job_type}") as caught:
            await preparation(Catalog(), workers).prepare(job)
        assert (caught.value.status_code, caught.value.field) == (422, "job_type")
    new = await preparation(Catalog(), Workers(job_type)).prepare(job)
    assert new.job_type == job_type


@pytest.mark.parametrize(
    "given",
    [
        body(**sampling(adapter="style:9")),
        rows(
            "a", {"prompt": "b", "parameters": {"adapter": "style:9"}}, job_type="batch_inference"
        ),
    ],
)
async def test_an_adapter_must_be_registered(given: dict[str, Any]) -> None:
    error = await refusal(given)
    assert (error.status_code, error.code) == (404, "model_not_found")
    assert "style:9" in error.message
    given["model"] = {"family": "tiny", "version": "1", "runtime": "transformers"}
    await prepare(parse_job(given), Catalog(reachable=False))
    await preparation(None).prepare(parse_job(given))


async def test_tags_of_adapters_are_followed_once_and_for_all() -> None:
    parameters = {"adapter": "style:prod", "top_k": 3}
    given = rows(
        "a",
        {"prompt": "b", "parameters": parameters},
        {"prompt": "c", "parameters": {"adapter": "style:1"}},
        job_type="batch_inference",
    )
    given["input"]["parameters"] = {"adapter": "style:prod"}
    job = parse_job(given)
    new = await prepare(job, Catalog(), key="k")
    stored = json.loads(new.input)
    assert stored["parameters"] == {"adapter": "style:1"}
    assert stored["inputs"][1]["parameters"] == {"adapter": "style:1", "top_k": 3}
    assert stored["inputs"][::2] == given["input"]["inputs"][::2]
    assert given["input"]["parameters"]["adapter"] == "style:prod"
    assert new.request_hash == (await prepare(parse_job(given), Bare(), key="k")).request_hash


async def test_what_the_model_requires_joins_what_the_job_does() -> None:
    plain = await prepare(parse_job(body()), Needy())
    assert (plain.min_memory_mb, plain.min_gpu_memory_mb) == (1536, 40960)
    more_and_less = body(requirements={"min_memory_mb": 2000, "min_gpu_memory_mb": 1})
    new = await prepare(parse_job(more_and_less), Needy())
    assert (new.min_memory_mb, new.min_gpu_memory_mb) == (2000, 40960)
    elsewhere = await prepare(parse_job(body(model={"family": "tiny", "runtime": "vllm"})), Needy())
    assert (elsewhere.runtime, elsewhere.min_gpu_memory_mb) == ("vllm", 40960)


async def test_the_catalogues_settings_are_the_default_on_the_models_own_runtime() -> None:
    plain = await prepare(parse_job(body()), Catalog())
    assert json.loads(plain.runtime_config) == {"dtype": "a", "size": 1}
    model = {"family": "tiny", "runtime_config": {"size": 2, "more": 3}}
    own = await prepare(parse_job(body(model=model)), Catalog())
    assert json.loads(own.runtime_config) == {"dtype": "a", "size": 2, "more": 3}
    elsewhere = await prepare(parse_job(body(model={**model, "runtime": "vllm"})), Catalog())
    assert json.loads(elsewhere.runtime_config) == {"size": 2, "more": 3}


async def test_the_request_hash_does_not_see_the_catalogues_settings() -> None:
    job = parse_job(body())
    bare = await preparation(Bare()).prepare(job)
    assert bare.request_hash == (await prepare(job, Catalog())).request_hash
    assert bare.runtime_config == "{}"


async def test_an_echo_needs_no_catalogue() -> None:
    echo = {"family": "echo", "version": "1", "runtime": "echo"}

    for catalog in (Catalog(), Catalog(reachable=False)):
        job = await prepare(parse_job(body(model=echo)), catalog)
        assert (job.family, job.version, job.runtime) == ("echo", "1", "echo")
