"""vLLM's processes: killed, orphaned, refused; none is ever left."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from neuron.errors import (
    ArtifactCorruptError,
    EngineCrashedError,
    InsufficientResourcesError,
    InvalidInputError,
    NeuronError,
)
from neuron.models.job import JobInput
from neuron.runtimes.engine_client import EngineClient

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOAD_SECONDS = 180
GONE_SECONDS = 5
Family = Callable[[int], list[psutil.Process]]

WORKER = """
import asyncio, os, sys
from pathlib import Path
from neuron.models.runtime import RuntimeType
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.engine_client import EngineClient

async def main():
    settings = EngineSettings(
        model_cache_dir=Path(sys.argv[1]), python={RuntimeType.VLLM: sys.argv[2]}
    )
    engine = EngineClient(RuntimeType.VLLM, "tiny", "1", {"dtype": "float32"}, settings)
    await engine.start(180)
    print(engine.pid, flush=True)
    await engine.wait_closed()

asyncio.run(main())
"""


def job(**parameters: Any) -> JobInput:
    defaults = {"temperature": 0, "max_tokens": 480, "ignore_eos": True}
    return JobInput(prompt="Hello", parameters={**defaults, **parameters})


async def ending(engine: EngineClient, started: asyncio.Event) -> NeuronError:
    try:
        async for _ in engine.generate(job()):
            started.set()
    except NeuronError as error:
        return error
    raise AssertionError("it ended well")


async def fates_when(engine: EngineClient, act: Callable[[], None]) -> list[NeuronError]:
    """Have 8 jobs running, do something, and see what becomes of them and of the engine."""
    started = [asyncio.Event() for _ in range(8)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ending(engine, event)) for event in started]
        for event in started:
            await event.wait()
        act()
        async with asyncio.timeout(GONE_SECONDS):
            await engine.wait_closed()
    return [task.result() for task in tasks]


async def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, GONE_SECONDS)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


async def test_kill_9_of_the_engine_takes_all_of_vllm_along(
    make_engine: Any, family_of: Family
) -> None:
    engine = make_engine()
    await engine.start(LOAD_SECONDS)
    processes = family_of(engine.pid)
    assert len(processes) >= 3
    for error in await fates_when(engine, lambda: os.kill(engine.pid, signal.SIGKILL)):
        assert isinstance(error, EngineCrashedError)
        assert "SIGKILL" in error.message
    await assert_gone(processes)


async def test_kill_9_of_vllms_core_ends_the_engine_and_says_so(
    make_engine: Any, family_of: Family
) -> None:
    engine = make_engine()
    await engine.start(LOAD_SECONDS)
    processes = family_of(engine.pid)
    core = next(p for p in processes if "EngineCore" in " ".join(p.cmdline()))
    errors = await fates_when(engine, core.kill)
    assert all(isinstance(error, EngineCrashedError) for error in errors)
    assert any("vLLM's engine core for tiny:1 died" in error.message for error in errors)
    await assert_gone(processes)


async def test_an_idle_engine_whose_core_dies_ends_by_itself(
    make_engine: Any, family_of: Family
) -> None:
    engine = make_engine()
    await engine.start(LOAD_SECONDS)
    processes = family_of(engine.pid)
    worker = processes[-1]
    worker.kill()
    async with asyncio.timeout(3 * GONE_SECONDS):
        await engine.wait_closed()
    assert not engine.is_alive
    await assert_gone(processes)


async def test_kill_9_of_the_worker_leaves_nothing_of_vllm(cache: Path, family_of: Family) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, str(cache), os.environ["NEURON_VLLM_PYTHON"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert worker.stdout is not None
    processes = family_of(int(await worker.stdout.readline()))
    assert len(processes) >= 3
    worker.kill()
    await worker.wait()
    await assert_gone(processes)


async def test_stopping_leaves_nothing(make_engine: Any, family_of: Family) -> None:
    engine = make_engine(max_num_seqs=2, max_num_batched_tokens=128, max_model_len=100)
    await engine.start(LOAD_SECONDS)
    processes = family_of(engine.pid)
    with pytest.raises(InvalidInputError, match=r"at most 100"):
        async for _ in engine.generate(JobInput(prompt="word " * 200)):
            pass
    await engine.stop(grace_seconds=10)
    await assert_gone(processes)


async def test_a_cancelled_load_leaves_nothing(
    make_engine: Any, family_of: Family, until: Callable[..., Any]
) -> None:
    engine = make_engine()
    seen: list[psutil.Process] = []

    def core_is_up() -> bool:
        seen[:] = family_of(engine.pid) if engine.pid else []
        return len(seen) > 1

    async with asyncio.TaskGroup() as group:
        start = group.create_task(engine.start(LOAD_SECONDS))
        await until(core_is_up, 60)
        start.cancel()
    await assert_gone(seen)


def copy_of_tiny(cache: Path, tmp_path: Path) -> Path:
    shutil.copytree(cache / "tiny" / "1", tmp_path / "tiny" / "1")
    return tmp_path / "tiny" / "1"


async def refused(engine: EngineClient) -> NeuronError:
    with pytest.raises(NeuronError) as caught:
        await engine.start(LOAD_SECONDS)
    assert engine.pid is None or not psutil.pid_exists(engine.pid)
    return caught.value


async def test_damaged_weights_are_named_as_such(
    make_engine: Any, cache: Path, tmp_path: Path
) -> None:
    weights = copy_of_tiny(cache, tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    error = await refused(make_engine(folder=tmp_path))
    assert isinstance(error, ArtifactCorruptError)
    assert error.message.startswith("the files of tiny:1 cannot be read: ")


async def test_a_config_that_is_no_model_is_named_as_such(
    make_engine: Any, cache: Path, tmp_path: Path
) -> None:
    folder = copy_of_tiny(cache, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "toaster", "architectures": ["Toaster"]})
    )
    error = await refused(make_engine(folder=tmp_path))
    assert isinstance(error, InvalidInputError)
    assert "vLLM cannot run tiny:1" in error.message


async def test_a_model_that_loads_but_cannot_run_is_refused_at_load(make_engine: Any) -> None:
    error = await refused(make_engine(version="small-heads"))
    assert isinstance(error, InvalidInputError)
    assert "head_dim=16" in error.message


async def test_pickled_weights_are_never_read(
    make_engine: Any, cache: Path, tmp_path: Path
) -> None:
    folder = copy_of_tiny(cache, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = await refused(make_engine(folder=tmp_path))
    assert isinstance(error, InvalidInputError)
    assert "pickled weights only" in error.message


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        ({"trust_remote_code": True}, InvalidInputError, "NEURON_ALLOW_REMOTE_CODE"),
        ({"max_num_sequences": 8}, InvalidInputError, "runtime_config: max_num_sequences"),
        ({"quantization": "squeezellm"}, InvalidInputError, "no longer reads squeezellm"),
        ({"max_model_len": 4096}, InvalidInputError, "max_model_len"),
        ({"quantization": "awq"}, InvalidInputError, "vLLM cannot run tiny:1"),
        ({"tensor_parallel_size": 8}, InvalidInputError, "divisible by tensor parallel size"),
        ({"max_num_batched_tokens": 16}, InvalidInputError, "max_num_seqs (64)"),
    ],
)
async def test_a_config_that_cannot_be_honoured_is_refused(
    make_engine: Any, config: dict[str, Any], kind: type[NeuronError], words: str
) -> None:
    error = await refused(make_engine(**config))
    assert isinstance(error, kind)
    assert words in error.message


async def test_a_cache_too_small_for_one_answer_is_a_lack_of_memory(
    make_engine: Any, cache: Path, tmp_path: Path
) -> None:
    folder = copy_of_tiny(cache, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4_000_000}))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    del tokenizer["model_max_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    error = await refused(make_engine(folder=tmp_path))
    assert isinstance(error, InsufficientResourcesError)
    assert "does not fit this worker" in error.message
