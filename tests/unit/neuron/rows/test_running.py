"""Every row ends once, with a result or an error of its own, whatever ends the attempt."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.errors import (
    EngineCrashedError,
    InvalidInputError,
    ModelNotFoundError,
    NeuronError,
    OutOfMemoryError,
    RuntimeUnavailableError,
    StorageUnavailableError,
)
from neuron.models.job import JobInput, JobOutput, JobSpec, RowResult
from neuron.runtimes.base import Generation
from neuron.services.rows.finished import LIMIT_BYTES, ROW_LIMIT_BYTES, FinishedRows
from neuron.services.rows.running import RowsRun

Errors = dict[str, list[NeuronError]]


def job(*rows: Any, job_type: str = "batch_inference", **parameters: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "job_id": "job_1",
            "job_type": job_type,
            "model": {"family": "tiny", "version": "1", "runtime": "transformers"},
            "input": {"inputs": list(rows), "parameters": parameters},
        }
    )


def answer(text: Any, **metadata: Any) -> JobOutput:
    told = {"finish_reason": "stop", "tokens_generated": 2, "prompt_tokens": 3}
    return JobOutput(result=text, metadata=told | metadata)


def in_capitals(request: JobInput) -> JobOutput:
    return answer((request.prompt or "").upper())


class Model:
    """Answers prompts; `errors` are raised for a prompt first; "wait" waits for `go`."""

    def __init__(
        self, reply: Callable[[JobInput], JobOutput] = in_capitals, errors: Errors | None = None
    ) -> None:
        self.reply = reply
        self.errors = errors or {}
        self.go = asyncio.Event()
        self.asked: list[str] = []
        self.beside: dict[str, int] = {}
        """How many ran when a prompt was asked last, itself included."""
        self.running = 0
        self.peak = 0
        self.changed = asyncio.Event()

    async def generate(self, request: JobInput) -> AsyncGenerator[Generation, None]:
        prompt = request.prompt or ""
        self.asked.append(prompt)
        self.running += 1
        self.beside[prompt] = self.running
        self.peak = max(self.peak, self.running)
        self.changed.set()
        try:
            if prompt.startswith("wait"):
                await self.go.wait()
            else:
                await asyncio.sleep(0)
            if self.errors.get(prompt):
                raise self.errors[prompt].pop(0)
            yield Generation("half")
            yield Generation("", [], self.reply(request))
        finally:
            self.running -= 1

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not reached():
                self.changed.clear()
                await self.changed.wait()


class Kept:
    """What CORTEX keeps of the rows; may fail from some row on."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.rows: list[RowResult] = []
        self._fail_after = fail_after
        self._changed = asyncio.Event()

    async def take(self, row: RowResult) -> None:
        if len(self.rows) == self._fail_after:
            raise EngineCrashedError("the machine is gone")
        self.rows.append(row)
        self._changed.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.rows) < count:
                self._changed.clear()
                await self._changed.wait()

    @property
    def indices(self) -> list[int]:
        return [row.index for row in self.rows]


def results(output: JobOutput) -> list[Any]:
    return [row and row.get("result", row.get("error")) for row in output.result]


async def test_the_results_come_in_the_inputs_order_with_ids_and_counts() -> None:
    model, kept = Model(), Kept()
    run = RowsRun(job("a", {"prompt": "b", "id": "B"}, "c"), [], model.generate, kept.take, 2)

    output = await run.run()

    told = {"finish_reason": "stop", "tokens_generated": 2, "prompt_tokens": 3}
    assert output.result == [
        {"result": "A"} | told,
        {"id": "B", "result": "B"} | told,
        {"result": "C"} | told,
    ]
    assert output.metadata == {
        "model": "tiny:1",
        "runtime": "transformers",
        "rows": 3,
        "rows_resumed": 0,
        "rows_failed": 0,
        "tokens_generated": 6,
        "prompt_tokens": 9,
    }
    assert {row.index: row.result for row in kept.rows} == dict(enumerate(output.result))
    assert (run.done_count, run.total) == (3, 3)


async def test_what_was_asked_for_beside_the_text_is_in_the_row() -> None:
    more = {"choices": [{"finish_reason": "stop"}], "logprobs": [{"token_id": 1}]}
    model = Model(lambda request: answer(["x", "y"], **more, stop_reason=None, cached=1))

    (row,) = (await RowsRun(job("a"), [], model.generate, Kept().take, 1).run()).result

    assert row["result"] == ["x", "y"]
    assert row["choices"] == more["choices"]
    assert row["logprobs"] == more["logprobs"]
    assert not row.keys() & {"stop_reason", "cached"}


async def test_rows_begin_in_order_and_no_more_run_than_may() -> None:
    model = Model()
    prompts = [f"wait {index}" for index in range(9)]
    run = RowsRun(job(*prompts), [], model.generate, Kept().take, 4)

    async with asyncio.TaskGroup() as group:
        group.create_task(run.run())
        await model.until(lambda: len(model.asked) == 4)
        before = list(model.asked)
        model.go.set()

    assert before == prompts[:4]
    assert model.asked == prompts
    assert model.peak == 4


async def test_a_row_is_kept_while_its_neighbour_still_runs() -> None:
    model, kept = Model(), Kept()
    run = RowsRun(job("wait", "b", "c"), [], model.generate, kept.take, 2)

    async with asyncio.TaskGroup() as group:
        group.create_task(run.run())
        await kept.until(2)
        early = (kept.indices, results(run.partial()), run.done_count)
        model.go.set()

    assert early == ([1, 2], [None, "B", "C"], 2)


async def test_a_wrong_row_costs_itself_only() -> None:
    errors: Errors = {
        "long": [InvalidInputError("the prompt has 9 tokens")],
        "styled": [ModelNotFoundError("no such adapter")],
    }
    rows = ["a", {"id": 4, "prompt": ""}, "long", {"id": True, "prompt": "x"}, "styled", "b"]
    model, kept = Model(errors=errors), Kept()

    output = await RowsRun(job(*rows), [], model.generate, kept.take, 3).run()

    told = output.result
    assert [row.get("result") for row in told] == ["A", None, None, None, None, "B"]
    assert told[1]["id"] == 4
    assert told[1]["error"]["message"].startswith("inputs[1].prompt: ")
    assert told[2] == {"error": {"code": "invalid_input", "message": "the prompt has 9 tokens"}}
    assert told[4]["error"]["code"] == "model_not_found"
    assert output.metadata["rows_failed"] == 4
    assert sorted(kept.indices) == list(range(6))


async def test_rows_that_cannot_be_read_hold_up_nothing_else() -> None:
    kept = Kept()
    run = RowsRun(job(*range(1000)), [], Model().generate, kept.take, 4)

    async with asyncio.TaskGroup() as group:
        group.create_task(run.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        early = run.done_count

    assert early < 20
    assert run.done_count == 1000


async def test_a_job_whose_rows_all_failed_completes() -> None:
    output = await RowsRun(job(1, 2), [], Model().generate, Kept().take, 3).run()

    assert output.metadata["rows_failed"] == 2
    assert [row["error"]["code"] for row in output.result] == ["invalid_input"] * 2


async def test_a_row_of_tensors_is_sent_alone_and_keeps_its_place() -> None:
    spec = job({"x": 1}, {"x": 2}).model_copy(deep=True)
    spec.model.runtime = "pytorch"

    def double(request: JobInput) -> JobOutput:
        assert request.inputs is not None
        if request.inputs == [{"x": 2}]:
            raise InvalidInputError("inputs[0].x: expected float32 of shape [], got 2")
        return JobOutput(result=[{"y": 2 * row["x"]} for row in request.inputs])

    output = await RowsRun(spec, [], Model(double).generate, Kept().take, 3).run()

    assert output.result[0] == {"result": {"y": 2}}
    assert output.result[1]["error"]["message"].startswith("inputs[1].x: ")


@pytest.mark.parametrize(
    "error",
    [
        EngineCrashedError("died"),
        RuntimeUnavailableError("gone"),
        StorageUnavailableError("away"),
    ],
)
async def test_what_is_no_row_s_fault_ends_the_attempt_as_it_is(error: NeuronError) -> None:
    model, kept = Model(errors={"bad": [error]}), Kept()
    run = RowsRun(job("a", "wait", "bad", "d"), [], model.generate, kept.take, 2)

    with pytest.raises(type(error)) as raised:
        await run.run()

    assert raised.value is error
    assert model.running == 0
    assert kept.indices == [0]
    assert results(run.partial()) == ["A", None, None, None]


async def test_a_crash_costs_no_row_that_was_kept_and_repeats_none() -> None:
    spec = job("a", "b", "boom", "d", "e")
    model, kept = Model(errors={"boom": [EngineCrashedError("died")]}), Kept()
    with pytest.raises(EngineCrashedError):
        await RowsRun(spec, [], model.generate, kept.take, 1).run()
    before = list(kept.rows)

    output = await RowsRun(spec, before, model.generate, kept.take, 1).run()

    assert [row.index for row in before] == [0, 1]
    assert model.asked == ["a", "b", "boom", "boom", "d", "e"]
    assert results(output) == ["A", "B", "BOOM", "D", "E"]
    assert output.metadata["rows_resumed"] == 2
    assert output.metadata["tokens_generated"] == 10
    assert sorted(kept.indices) == [0, 1, 2, 3, 4]


async def test_an_attempt_with_nothing_left_to_run_answers_from_what_is_done() -> None:
    done = [RowResult(index=0, result={"result": "A"}), RowResult(index=7, result={"result": "?"})]
    model = Model()

    output = await RowsRun(job("a"), done, model.generate, Kept().take, 2).run()

    assert (output.result, model.asked) == ([{"result": "A"}], [])
    assert output.metrics["rows_per_second"] == 0


async def test_cancelling_closes_every_generation_and_keeps_what_ended() -> None:
    model, kept = Model(), Kept()
    run = RowsRun(job("a", "wait 1", "wait 2", "d"), [], model.generate, kept.take, 2)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run.run())
        await model.until(lambda: model.asked == ["a", "wait 1", "wait 2"])
        task.cancel()

    assert task.cancelled()
    assert model.running == 0
    assert kept.indices == [0]
    assert results(run.partial()) == ["A", None, None, None]


@pytest.mark.parametrize("error", [OutOfMemoryError("full"), NeuronError("a step failed")])
async def test_a_row_that_may_be_retried_gets_a_second_try_alone(error: NeuronError) -> None:
    model, kept = Model(errors={"big": [error]}), Kept()

    output = await RowsRun(job("big", "b", "c", "d"), [], model.generate, kept.take, 3).run()

    assert model.asked == ["big", "b", "c", "d", "big"]
    assert model.beside["big"] == 1
    assert results(output) == ["BIG", "B", "C", "D"]
    assert kept.indices[-1] == 0


async def test_after_its_second_try_the_error_is_the_row_s() -> None:
    full = OutOfMemoryError("memory ran out")
    model = Model(errors={"big": [full, full]})

    output = await RowsRun(job("big", "b"), [], model.generate, Kept().take, 2).run()

    assert Counter(model.asked) == {"big": 2, "b": 1}
    assert results(output) == [{"code": "out_of_memory", "message": "memory ran out"}, "B"]


async def test_answers_that_no_result_can_carry_end_the_job_early() -> None:
    model, kept = Model(lambda _: answer("x" * 3_000_000)), Kept()

    with pytest.raises(InvalidInputError, match="send fewer rows in a job"):
        await RowsRun(job(*"abcdefgh"), [], model.generate, kept.take, 1).run()

    assert model.asked == ["a", "b", "c", "d"]
    assert kept.indices == [0, 1, 2]


async def test_an_answer_too_large_to_be_kept_costs_its_row_only() -> None:
    answers = iter(["x" * ROW_LIMIT_BYTES, "short"])
    model, kept = Model(lambda _: answer(next(answers))), Kept()

    output = await RowsRun(job("a", "b"), [], model.generate, kept.take, 1).run()

    assert output.result[0]["error"]["code"] == "invalid_input"
    assert str(ROW_LIMIT_BYTES) in output.result[0]["error"]["message"]
    assert output.result[1]["result"] == "short"
    assert kept.indices == [0, 1]


async def test_what_earlier_attempts_brought_counts_too() -> None:
    done = [RowResult(index=0, result={"result": "x" * LIMIT_BYTES})]
    model = Model()

    with pytest.raises(InvalidInputError, match="send fewer rows in a job"):
        await RowsRun(job("a", "b"), done, model.generate, Kept().take, 1).run()

    assert model.asked == []


@given(st.lists(st.dictionaries(st.text(), st.text(), max_size=3)), st.integers(0, 9))
def test_the_size_that_is_counted_is_the_result_s(rows: list[dict[str, str]], more: int) -> None:
    spec = job(*["a"] * (len(rows) + more), "a")
    done = [RowResult(index=index, result=row) for index, row in enumerate(rows)]
    finished = FinishedRows(spec, done)

    brackets = 1
    assert finished.size_bytes + brackets == len(msgspec.json.encode(finished.output().result))


def asked_of(request: JobInput) -> JobOutput:
    """Knows one answer, and how likely its target is."""
    target = request.sampling.target
    if target is None:
        return answer("It is in Paris.")
    tokens = len(target.split())
    return answer(target, target_logprob=-tokens * math.log(4), tokens_generated=tokens)


async def test_an_evaluation_scores_each_row_and_all_together() -> None:
    rows = [
        {"id": 1, "prompt": "Where?", "reference": ["Paris", "it is in paris"]},
        {"id": 2, "prompt": "Where is it?", "reference": "Paris in France today"},
        {"id": 3, "prompt": "Where is what?"},
    ]
    spec = job(*rows, job_type="evaluation", metrics=["exact_match", "f1", "perplexity"])

    output = await RowsRun(spec, [], Model(asked_of).generate, Kept().take, 2).run()

    assert output.result[0] == {
        "id": 1,
        "result": "It is in Paris.",
        "finish_reason": "stop",
        "tokens_generated": 2,
        "prompt_tokens": 3,
        "reference": ["Paris", "it is in paris"],
        "reference_logprob": pytest.approx(-math.log(4)),
        "reference_tokens": 1,
        "scores": {"exact_match": 1, "f1": 1.0, "perplexity": pytest.approx(4)},
    }
    assert output.result[1]["scores"]["f1"] == pytest.approx(2 * 2 / (4 + 4))
    assert output.result[2]["error"]["code"] == "invalid_input"
    assert output.metadata["scores"] == {
        "rows_scored": 2,
        "exact_match": 0.5,
        "f1": pytest.approx(0.75),
        "perplexity": pytest.approx(4),
    }


async def test_perplexity_over_all_rows_is_of_all_tokens() -> None:
    """One token at 1/2 and three at 1/8: exp of the mean is 2 ** ((1 + 9) / 4), not (2 + 8) / 2."""

    def scored(request: JobInput) -> JobOutput:
        target = request.sampling.target or ""
        bits, tokens = (1, 1) if target == "short" else (9, 3)
        return answer(target, target_logprob=-bits * math.log(2), tokens_generated=tokens)

    rows = [{"prompt": "a", "reference": "short"}, {"prompt": "b", "reference": "long"}]
    spec = job(*rows, job_type="evaluation", metrics=["perplexity"])
    model, kept = Model(scored), Kept()

    output = await RowsRun(spec, [], model.generate, kept.take, 1).run()
    resumed = await RowsRun(spec, kept.rows[:1], model.generate, kept.take, 1).run()

    assert [row["scores"]["perplexity"] for row in output.result] == [
        pytest.approx(2),
        pytest.approx(8),
    ]
    assert output.metadata["scores"]["perplexity"] == pytest.approx(2 ** (10 / 4))
    assert resumed.metadata["scores"] == output.metadata["scores"]


async def test_perplexity_alone_generates_nothing() -> None:
    spec = job({"prompt": "a", "reference": "b"}, job_type="evaluation", metrics=["perplexity"])
    model = Model(asked_of)

    output = await RowsRun(spec, [], model.generate, Kept().take, 1).run()

    assert model.asked == ["a"]
    assert output.result[0]["result"] is None
    assert output.metadata["tokens_generated"] == 0


async def test_a_runtime_that_scores_no_targets_gives_the_rows_an_error() -> None:
    def refuse(request: JobInput) -> JobOutput:
        raise InvalidInputError("parameters: target is for models that generate text")

    rows = [{"prompt": "a", "reference": "b"}]
    for reply in (refuse, in_capitals):
        spec = job(*rows, job_type="evaluation", metrics=["perplexity", "f1"])
        output = await RowsRun(spec, [], Model(reply).generate, Kept().take, 1).run()
        assert output.result[0]["error"]["code"] == "invalid_input"
        assert output.metadata["scores"] == {"rows_scored": 0}


@pytest.mark.parametrize(
    ("result", "match"),
    [
        ([{"label": "Cat", "score": 0.9}, {"label": "dog", "score": 0.1}], 1),
        ({"logits": [{"label": "dog", "score": 0.9}]}, 0),
    ],
)
async def test_a_classifier_is_scored_by_its_best_label(result: Any, match: int) -> None:
    spec = job({"prompt": "a", "reference": "cat"}, job_type="evaluation")

    output = await RowsRun(spec, [], Model(lambda _: answer(result)).generate, Kept().take, 1).run()

    assert output.metadata["scores"]["exact_match"] == match


async def test_numbers_are_compared_with_nothing() -> None:
    spec = job({"prompt": "a", "reference": "cat"}, job_type="evaluation")
    model = Model(lambda _: answer([0.1, 0.2]))

    output = await RowsRun(spec, [], model.generate, Kept().take, 1).run()

    assert "neither" in output.result[0]["error"]["message"]


@given(
    rows=st.integers(1, 12),
    max_running=st.integers(1, 5),
    deaths=st.lists(st.integers(0, 5), max_size=4),
    broken=st.sets(st.integers(0, 11)),
)
def test_whatever_interrupts_it_every_row_that_was_kept_is_asked_once(
    rows: int, max_running: int, deaths: list[int], broken: set[int]
) -> None:
    """Each attempt dies when it has kept so many rows; the last one lives."""

    async def scenario() -> None:
        prompts = [f"row {index}" for index in range(rows)]
        errors: Errors = {f"row {index}": [InvalidInputError("bad")] * 9 for index in broken}
        spec = job(*prompts)
        done: list[RowResult] = []
        asked: Counter[str] = Counter()
        for death in [*deaths, None]:
            model, kept = Model(errors=errors), Kept(fail_after=death)
            run = RowsRun(spec, done, model.generate, kept.take, max_running)
            try:
                output = await run.run()
            except EngineCrashedError:
                output = None
            assert not {prompts[row.index] for row in done} & set(model.asked)
            assert model.running == 0
            done += kept.rows
            asked.update(model.asked)
            if output is not None:
                break
        assert output is not None
        assert sorted(row.index for row in done) == list(range(rows))
        assert output.result == [row.result for row in sorted(done, key=lambda row: row.index)]
        assert [i for i, row in enumerate(output.result) if "error" in row] == sorted(
            broken & set(range(rows))
        )
        assert deaths or all(count == 1 for count in asked.values())

    asyncio.run(scenario())
