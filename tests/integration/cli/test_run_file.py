"""`mnemos run` against a CORTEX with failure switches: every id exactly once, whatever happens."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_platform import FakeCortex, serving, until

from mnemos.cli.errors import Conflict, NotFound, Unreachable
from mnemos.cli.http import CortexClient
from mnemos.cli.runs.record import RunSettings, sidecar_of
from mnemos.cli.runs.session import RunRequest, RunSummary, run_file
from mnemos.cli.runs.waiting import WhyWaiting


class SilentProgress:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def advance(self, done: int, failed: int, tokens: int) -> None: ...

    def tick(self) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)

    def close(self) -> None: ...


@pytest.fixture
def cortex() -> FakeCortex:
    return FakeCortex()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": f"q{number}", "prompt": f"p{number}"}) for number in range(100)]
    path.write_text("\n".join(lines))
    return path


def request_for(source: Path, url: str, **changes: Any) -> RunRequest:
    out = source.with_name("out.jsonl")
    defaults = RunRequest(source, out, RunSettings(family="tiny"), url)
    return defaults._replace(**changes)


async def run(
    source: Path, url: str, progress: SilentProgress | None = None, **changes: Any
) -> RunSummary:
    shown = progress or SilentProgress()
    return await run_file(request_for(source, url, **changes), lambda _total, _done: shown)


def answers(source: Path) -> list[dict[str, Any]]:
    text = source.with_name("out.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def assert_each_once(source: Path, count: int = 100) -> None:
    found = Counter(answer["id"] for answer in answers(source))
    assert found == {f"q{number}": 1 for number in range(count)}


async def test_every_line_is_answered_once(cortex: FakeCortex, source: Path) -> None:
    async with serving(cortex) as url:
        summary = await run(source, url)
    assert_each_once(source)
    assert (summary.total, summary.failed, summary.answered_now, summary.tokens) == (
        100,
        0,
        100,
        300,
    )
    answer = next(line for line in answers(source) if line["id"] == "q7")
    assert answer["result"] == "echo: p7"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 3}
    assert (answer["status"], answer["finish_reason"]) == ("completed", "stop")
    assert (answer["model"], answer["latency_ms"]) == ("tiny:1", 1.5)
    assert not sidecar_of(source.with_name("out.jsonl")).exists()


async def test_the_window_bounds_what_is_unfinished(cortex: FakeCortex, source: Path) -> None:
    cortex.hold = True
    async with serving(cortex) as url, asyncio.TaskGroup() as tasks:
        tasks.create_task(run(source, url, window=10))
        await cortex.wait_for_jobs(9)
        await cortex.release()
    assert_each_once(source)
    assert cortex.most_unfinished <= 10


async def test_an_interrupted_run_is_continued(cortex: FakeCortex, source: Path) -> None:
    cortex.hold = True
    async with serving(cortex) as url:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(run(source, url, window=40))
            await cortex.wait_for_jobs(40)
            for job in list(cortex.jobs.values())[:20]:
                await cortex._finish(job)
            out = source.with_name("out.jsonl")
            await until(lambda: out.exists() and len(out.read_text().splitlines()) == 20)
            first.cancel()
        assert sidecar_of(out).exists()
        with out.open("a") as file:
            file.write('{"id": "q')
        await cortex.release()
        summary = await run(source, url)
    assert_each_once(source)
    assert summary.answered_now == 80
    assert len(cortex.jobs) == 100, "no question was asked twice"


async def test_lost_answers_do_not_double_the_jobs(cortex: FakeCortex, source: Path) -> None:
    cortex.drop_answers = 2
    progress = SilentProgress()
    async with serving(cortex) as url:
        await run(source, url, progress)
    assert_each_once(source)
    assert len(cortex.jobs) == 100
    assert any("Waiting for it" in note for note in progress.notes)


async def test_cortex_may_go_away_and_come_back(cortex: FakeCortex, source: Path) -> None:
    cortex.hold = True
    progress = SilentProgress()
    async with asyncio.TaskGroup() as tasks:
        async with serving(cortex) as url:
            work = tasks.create_task(run(source, url, progress, window=20))
            await cortex.wait_for_jobs(20)
        await until(lambda: bool(progress.notes))
        cortex.hold = False
        async with serving(cortex, int(url.rsplit(":", 1)[1])):
            await cortex.release()
            await work
    assert_each_once(source)
    assert any("is back" in note for note in progress.notes)


async def test_jobs_that_cortex_has_lost_are_asked_again(cortex: FakeCortex, source: Path) -> None:
    cortex.hold = True
    progress = SilentProgress()
    async with serving(cortex) as url, asyncio.TaskGroup() as tasks:
        work = tasks.create_task(run(source, url, progress, window=100))
        await cortex.wait_for_jobs(100)
        cortex.forget()
        await cortex.release()
        await work
    assert_each_once(source)
    assert any("no longer knows" in note for note in progress.notes)


async def test_a_bad_line_is_told_and_the_others_run(cortex: FakeCortex, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    hot = {"id": "q1", "prompt": "b", "parameters": {"temperature": 3}}
    path.write_text(f'{{"id": "q0", "prompt": "a"}}\n{{oops\n{json.dumps(hot)}\n')
    progress = SilentProgress()
    async with serving(cortex) as url:
        summary = await run(path, url, progress)
    told = {answer["id"]: answer for answer in answers(path)}
    assert summary.failed == 2
    assert told["q0"]["status"] == "completed"
    assert "line 2: not JSON" in told["line-2"]["error"]["message"]
    assert told["q1"]["error"]["code"] == "invalid_input"
    assert any(note.startswith("line 2: not JSON") for note in progress.notes)
    assert any(note.startswith("line 3: ") for note in progress.notes)


async def test_failed_jobs_are_answers_too(cortex: FakeCortex, source: Path) -> None:
    cortex.fail_prompts = {"p3"}
    progress = SilentProgress()
    async with serving(cortex) as url:
        summary = await run(source, url, progress)
    assert_each_once(source)
    assert any(note.startswith("line 4: ") for note in progress.notes)
    assert summary.failed == 1
    answer = next(line for line in answers(source) if line["id"] == "q3")
    assert answer["error"]["code"] == "out_of_memory"


async def test_a_passing_refusal_is_asked_again(cortex: FakeCortex, source: Path) -> None:
    cortex.refuse_next = ["unavailable", "storage_unavailable"]
    async with serving(cortex) as url:
        summary = await run(source, url)
    assert_each_once(source)
    assert summary.failed == 0


async def test_an_unknown_model_ends_the_run_at_once(cortex: FakeCortex, source: Path) -> None:
    async with serving(cortex) as url:
        with pytest.raises(NotFound, match="no such model"):
            await run(source, url, settings=RunSettings(family="nope"))
    assert answers(source) == []
    assert not sidecar_of(source.with_name("out.jsonl")).exists()


async def test_cortex_not_up_is_said_at_once(source: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        await run(source, "http://127.0.0.1:1")
    assert caught.value.hint == "start it with: mnemos up"


async def test_another_run_may_not_continue_this_one(cortex: FakeCortex, source: Path) -> None:
    cortex.hold = True
    async with serving(cortex) as url:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(run(source, url))
            await cortex.wait_for_jobs(100)
            first.cancel()
        hot = RunSettings(family="tiny", parameters={"temperature": 1.0})
        with pytest.raises(Conflict, match="parameters was"):
            await run(source, url, settings=hot)
        cortex.hold = False
        summary = await run(source, url, settings=hot, restart=True)
    assert_each_once(source)
    assert summary.answered_now == 100
    statuses = Counter(job["status"] for job in cortex.jobs.values())
    assert statuses == {"cancelled": 100, "completed": 100}


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
async def test_prompts_are_not_overwritten_through_a_link(
    cortex: FakeCortex, source: Path, link: str
) -> None:
    out = source.with_name("out.jsonl")
    getattr(out, link)(source)
    before = await asyncio.to_thread(source.read_bytes)
    async with serving(cortex) as url:
        with pytest.raises(Conflict, match="over the prompts"):
            await run(source, url, restart=True)
    assert await asyncio.to_thread(source.read_bytes) == before


async def test_a_damaged_record_is_refused_and_a_restart_mends_it(
    cortex: FakeCortex, source: Path
) -> None:
    sidecar = sidecar_of(source.with_name("out.jsonl"))
    sidecar.write_text('{"run_id')
    async with serving(cortex) as url:
        with pytest.raises(Conflict, match="not the record of a run"):
            await run(source, url)
        await run(source, url, restart=True)
    assert_each_once(source)
    assert not sidecar.exists()


async def test_a_line_that_spoils_its_batch_does_not_hold_up_the_others(
    cortex: FakeCortex, source: Path
) -> None:
    cortex.poisonous_prompts = {"p7", "p70"}
    async with serving(cortex) as url:
        summary = await run(source, url)
    assert_each_once(source)
    assert summary.failed == 2


async def test_a_complete_run_has_nothing_to_do(cortex: FakeCortex, source: Path) -> None:
    async with serving(cortex) as url:
        await run(source, url)
        summary = await run(source, url)
        assert (summary.answered_now, len(cortex.jobs)) == (0, 100)
        await asyncio.to_thread(source.write_text, '"something else"\n')
        with pytest.raises(Conflict, match="answers of another run"):
            await run(source, url)


async def test_failed_lines_alone_are_asked_again(cortex: FakeCortex, source: Path) -> None:
    cortex.fail_prompts = {"p3", "p99"}
    async with serving(cortex) as url:
        await run(source, url)
        before = {answer["id"]: answer for answer in answers(source)}
        cortex.fail_prompts = {"p99"}
        summary = await run(source, url, retry_failed=True)
        assert (summary.answered_now, summary.failed, len(cortex.jobs)) == (2, 1, 102)
        assert_each_once(source)
        after = {answer["id"]: answer for answer in answers(source)}
        assert after["q3"]["status"] == "completed"
        del before["q3"], before["q99"]
        assert before.items() <= after.items()
        cortex.fail_prompts = set()
        await run(source, url, retry_failed=True)
        assert (await run(source, url, retry_failed=True)).answered_now == 0
    assert_each_once(source)
    assert len(cortex.jobs) == 103


async def test_odd_ids_survive(cortex: FakeCortex, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    odd = ["x" * 900, "line\nbreak", "ünï😀", "a:b", " "]
    path.write_text("\n".join(json.dumps({"id": name, "prompt": "p"}) for name in odd))
    async with serving(cortex) as url:
        await run(path, url)
    assert sorted(answer["id"] for answer in answers(path)) == sorted(odd)
    assert all(len(key) <= 256 for key in cortex.by_key)


async def test_a_run_says_once_why_nothing_comes(cortex: FakeCortex) -> None:
    cortex.hold = True
    job, _ = await cortex.submit({"model": {"family": "tiny"}, "input": {"parameters": {}}})
    told: list[str] = []
    async with serving(cortex) as url, CortexClient(url) as client:
        why = WhyWaiting(client, told.append, quiet_seconds=0.0)
        for done in (0, 0, 0, 1, 1):
            await why.look(job["job_id"], done)
        await why.look("job_nope", 1)
    assert told == ["Waiting: no worker is registered"]
