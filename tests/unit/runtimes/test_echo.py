"""What the echo runtime answers, and that an answer can be taken up anywhere."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from neuron.config import Settings
from neuron.errors import EngineCrashedError, InvalidInputError
from neuron.models.job import JobInput, ResumeState
from neuron.models.runtime import RuntimeType
from neuron.runtimes.base import EngineSettings, Generation
from neuron.runtimes.echo_runtime import BURST_TOKENS, EchoRuntime
from neuron.runtimes.in_process import InProcessEngine
from neuron.runtimes.registry import runtime_availability


async def loaded(**config: Any) -> EchoRuntime:
    runtime = EchoRuntime(EngineSettings(model_cache_dir=Path("nowhere")))
    await runtime.load_model("echo", "1", config)
    return runtime


async def pieces(
    job_input: JobInput, resume: ResumeState | None = None, **config: Any
) -> list[Generation]:
    runtime = await loaded(**config)
    return [each async for each in runtime.generate(job_input, resume)]


def prompt(text: str, **parameters: Any) -> JobInput:
    return JobInput(prompt=text, parameters=parameters)


def whole(generations: list[Generation]) -> tuple[str, list[int]]:
    text = "".join(each.text for each in generations)
    return text, [token for each in generations for token in each.token_ids]


async def test_a_prompt_comes_back_once_unless_asked_otherwise() -> None:
    asked_at = time.time()
    (piece,) = await pieces(prompt("one  two\nthree"))

    assert (piece.text, piece.token_ids) == ("one two three", [0, 1, 2])
    assert piece.output is not None
    assert piece.output.result == "one two three"
    assert piece.output.metadata["tokens_generated"] == 3
    assert piece.output.metadata["finish_reason"] == "stop"
    assert asked_at <= piece.output.metrics["began_at"] <= time.time()


@pytest.mark.parametrize(("max_tokens", "text"), [(2, "a b"), (5, "a b c a b")])
async def test_the_words_go_round_up_to_max_tokens(max_tokens: int, text: str) -> None:
    (piece,) = await pieces(prompt("a b c", max_tokens=max_tokens))

    assert piece.output is not None
    assert piece.text == piece.output.result == text
    assert piece.output.metadata["finish_reason"] == "length"


async def test_blanks_are_answered_with_nothing() -> None:
    (piece,) = await pieces(prompt("  ", max_tokens=5))

    assert (piece.text, piece.token_ids) == ("", [])


async def test_the_last_message_is_what_comes_back() -> None:
    chat = [{"role": "system", "content": "be nice"}, {"role": "user", "content": "hi there"}]
    (piece,) = await pieces(JobInput.model_validate({"messages": chat}))

    assert piece.text == "hi there"


async def test_with_time_between_them_tokens_come_one_by_one() -> None:
    generations = await pieces(prompt("a b c"), token_seconds=0.001)

    assert [each.text for each in generations] == ["a", " b", " c"]
    assert [each.token_ids for each in generations] == [[0], [1], [2]]


async def test_a_long_answer_does_not_hold_up_the_loop() -> None:
    generations = await pieces(prompt("a b", max_tokens=3 * BURST_TOKENS))

    assert len(generations) == 3
    text, ids = whole(generations)
    assert text.split() == ["a", "b"] * (3 * BURST_TOKENS // 2)
    assert ids == list(range(3 * BURST_TOKENS))


@pytest.mark.parametrize("done", [0, 1, 2, 3, 6, 7])
async def test_text_and_tokens_are_exact_across_a_seam(done: int) -> None:
    asked = prompt("ä 漢 🙂", max_tokens=7)
    text, ids = whole(await pieces(asked, token_seconds=0.001))
    first = " ".join(text.split(" ")[:done])

    rest = await pieces(asked, ResumeState(token_ids=ids[:done], text=first))

    assert first + whole(rest)[0] == text
    assert whole(rest)[1] == ids[done:]
    output = rest[-1].output
    assert output is not None
    assert output.result == text
    assert (output.metadata["resumed_tokens"], output.metadata["tokens_generated"]) == (done, 7)


async def test_several_answers_are_all_the_same() -> None:
    (piece,) = await pieces(prompt("a b", n=3))

    assert piece.output is not None
    assert piece.output.result == ["a b"] * 3


@pytest.mark.parametrize(
    "parameters",
    [{"stop": ["x"]}, {"logprobs": 0}, {"choice": ["a"]}, {"target": "a"}, {"max_tokens": 10**9}],
)
async def test_what_cannot_be_echoed_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"^{next(iter(parameters))}: the echo runtime"):
        await pieces(prompt("a", **parameters))


@pytest.mark.parametrize("seconds", [-1, 61, float("nan"), "soon"])
async def test_a_config_that_cannot_be_is_refused(seconds: object) -> None:
    with pytest.raises(InvalidInputError, match="runtime_config: token_seconds"):
        await loaded(token_seconds=seconds)


async def test_an_engine_in_this_process_ends_when_it_is_stopped() -> None:
    runtime = EchoRuntime(EngineSettings(model_cache_dir=Path("nowhere")))
    engine = InProcessEngine(runtime, "echo", "1", {"token_seconds": 0})
    await engine.start(1)
    states = [engine.is_alive]

    await engine.stop()
    async with asyncio.timeout(1):
        await engine.wait_closed()

    assert [*states, engine.is_alive] == [True, False]
    with pytest.raises(EngineCrashedError):
        engine.generate(prompt("a"))


def test_it_can_run_anywhere_and_is_offered_nowhere_unless_asked_for() -> None:
    assert runtime_availability(RuntimeType.ECHO) is None
    assert RuntimeType.ECHO not in Settings(_env_file=None).supported_runtimes
    asked = Settings(_env_file=None, supported_runtimes="echo")
    assert asked.supported_runtimes == [RuntimeType.ECHO]
