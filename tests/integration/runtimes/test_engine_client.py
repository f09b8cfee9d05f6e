"""Real engine processes: asked by many, cancelled, killed, orphaned, given bad models."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from neuron.errors import (
    ArtifactCorruptError,
    EngineCrashedError,
    InvalidInputError,
    JobTimeoutError,
    NeuronError,
    RuntimeUnavailableError,
)
from neuron.models.job import JobInput, JobOutput
from neuron.models.runtime import RuntimeType
from neuron.runtimes.base import EngineSettings
from neuron.runtimes.engine_client import EngineClient
from neuron.runtimes.engine_spawn import engine_environment

LOAD_SECONDS = 60


def job(prompt: str = "Hello", **parameters: Any) -> JobInput:
    defaults = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
    return JobInput(prompt=prompt, parameters={**defaults, **parameters})


async def answer(engine: EngineClient, one: JobInput) -> JobOutput:
    text = ""
    async with aclosing(engine.generate(one)) as generations:
        async for piece in generations:
            text += piece.text
            if piece.output is not None:
                assert piece.output.result == text
                return piece.output
    raise AssertionError("no output")


def exists(pid: int | None) -> bool:
    return pid is not None and psutil.pid_exists(pid)


async def test_many_ask_at_once_and_get_their_own_answers(make_engine: Any) -> None:
    engine = make_engine()
    await engine.start(LOAD_SECONDS)
    assert engine.is_alive
    assert engine.load_seconds > 0
    assert engine.memory_mb > 10
    jobs = [job(f"Question {index}") for index in range(16)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(answer(engine, one)) for one in jobs]
    together = [task.result().result for task in tasks]
    assert len(set(together)) > 10
    assert together[:3] == [(await answer(engine, one)).result for one in jobs[:3]]
    assert engine.active_requests == 0
    pid = engine.pid
    await engine.stop()
    await engine.stop()
    assert not exists(pid)
    with pytest.raises(EngineCrashedError, match="not running"):
        await answer(engine, job())


async def test_a_bad_request_fails_alone_with_its_own_error(make_engine: Any) -> None:
    engine = make_engine()
    await engine.start(LOAD_SECONDS)
    async with asyncio.TaskGroup() as group:
        good = group.create_task(answer(engine, job()))
        with pytest.raises(InvalidInputError, match="at most 256") as caught:
            await answer(engine, job("é🙂" * 300))
    assert caught.value.details["context_tokens"] == 256
    assert good.result().metadata["tokens_generated"] == 24


async def test_cancelling_frees_the_place_in_the_engine(
    make_engine: Any, until: Callable[..., Any]
) -> None:
    engine = make_engine()
    await engine.start(LOAD_SECONDS)
    first = asyncio.Event()

    async def endless() -> None:
        async for _ in engine.generate(job(max_tokens=240)):
            first.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(endless())
        await first.wait()
        began = time.monotonic()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 0.2
    assert engine.active_requests == 0
    assert (await answer(engine, job())).metadata["tokens_generated"] == 24

    def engine_is_idle() -> bool:
        engine.ping()
        return bool(engine.engine_requests == 0)

    await until(engine_is_idle)


async def test_a_slow_reader_gets_what_it_missed_as_one_piece(
    make_engine: Any, until: Callable[..., Any]
) -> None:
    engine = make_engine()
    await engine.start(LOAD_SECONDS)
    wanted = await answer(engine, job(max_tokens=200))

    def engine_is_idle() -> bool:
        engine.ping()
        return bool(engine.steps > 200 and engine.engine_requests == 0)

    async with aclosing(engine.generate(job(max_tokens=200))) as generations:
        pieces = [await anext(generations)]
        await until(engine_is_idle, seconds=30)
        pieces += [piece async for piece in generations]
    assert len(pieces) <= 4
    assert "".join(piece.text for piece in pieces) == wanted.result
    assert len([token for piece in pieces for token in piece.token_ids]) == 200
    assert pieces[-1].output is not None
    assert pieces[-1].output.result == wanted.result


async def test_a_request_closed_before_it_began_leaves_nothing(make_engine: Any) -> None:
    engine = make_engine()
    await engine.start(LOAD_SECONDS)
    for _ in range(20):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(answer(engine, job()))
            await asyncio.sleep(0)
            task.cancel()
    assert engine.active_requests == 0
    assert (await answer(engine, job())).result


async def test_kill_9_of_the_engine_reaches_everyone_and_leaves_no_zombie(
    make_engine: Any,
) -> None:
    engine = make_engine()
    await engine.start(LOAD_SECONDS)
    started = [asyncio.Event() for _ in range(8)]

    async def endless(event: asyncio.Event) -> NeuronError:
        try:
            async for _ in engine.generate(job(max_tokens=240)):
                event.set()
        except NeuronError as error:
            return error
        raise AssertionError("it ended well")

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(endless(event)) for event in started]
        for event in started:
            await event.wait()
        os.kill(engine.pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            await engine.wait_closed()
    for task in tasks:
        error = task.result()
        assert isinstance(error, EngineCrashedError)
        assert "signal 9, SIGKILL" in error.message
        assert "tiny:1" in error.message
    assert not engine.is_alive
    assert not exists(engine.pid)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_for_the_worker_do_not_end_its_engines(
    make_engine: Any, signal_number: int
) -> None:
    engine = make_engine()
    await engine.start(LOAD_SECONDS)
    os.kill(engine.pid, signal_number)
    assert (await answer(engine, job())).result
    assert os.getsid(engine.pid) != os.getsid(0)


async def test_kill_9_of_the_worker_takes_the_engine_along(cache: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from neuron.models.runtime import RuntimeType\n"
        "from neuron.runtimes.base import EngineSettings\n"
        "from neuron.runtimes.engine_client import EngineClient\n"
        "async def main():\n"
        "    settings = EngineSettings(model_cache_dir=Path(sys.argv[1]))\n"
        "    engine = EngineClient(RuntimeType.TRANSFORMERS, 'tiny', '1', {}, settings)\n"
        "    await engine.start(60)\n"
        "    print(engine.pid, flush=True)\n"
        "    await engine.wait_closed()\n"
        "asyncio.run(main())\n"
    )
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(cache), stdout=subprocess.PIPE
    )
    assert worker.stdout is not None
    engine = psutil.Process(int(await worker.stdout.readline()))
    assert engine.is_running()
    worker.kill()
    await worker.wait()
    await asyncio.to_thread(psutil.wait_procs, [engine], 5)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


async def test_a_load_that_takes_too_long_leaves_no_process(make_engine: Any) -> None:
    engine = make_engine()
    with pytest.raises(JobTimeoutError, match=r"loading tiny:1 took longer than 0\.2 s"):
        await engine.start(0.2)
    assert not exists(engine.pid)


async def test_a_cancelled_load_leaves_no_process(
    make_engine: Any, until: Callable[..., Any]
) -> None:
    engine = make_engine()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(engine.start(LOAD_SECONDS))
        await until(lambda: engine.pid is not None)
        task.cancel()
    assert not exists(engine.pid)


def copy_of_tiny(cache: Path, tmp_path: Path) -> Path:
    shutil.copytree(cache / "tiny" / "1", tmp_path / "tiny" / "1")
    return tmp_path / "tiny" / "1"


async def test_damaged_weights_are_named_as_such(
    make_engine: Any, cache: Path, tmp_path: Path
) -> None:
    weights = copy_of_tiny(cache, tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    engine = make_engine(folder=tmp_path)
    with pytest.raises(ArtifactCorruptError, match="the files of tiny:1 cannot be read"):
        await engine.start(LOAD_SECONDS)
    assert not exists(engine.pid)
    assert engine.runtime_started, "the model is at fault, not the runtime"


async def test_a_missing_folder_is_named_as_such(make_engine: Any) -> None:
    with pytest.raises(ArtifactCorruptError, match="tiny:nowhere are not complete"):
        await make_engine(version="nowhere").start(LOAD_SECONDS)


async def test_pickled_weights_are_never_read(
    make_engine: Any, cache: Path, tmp_path: Path
) -> None:
    folder = copy_of_tiny(cache, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InvalidInputError, match="pickled weights only"):
        await make_engine(folder=tmp_path).start(LOAD_SECONDS)


async def test_a_model_with_code_of_its_own_does_not_run_it(
    make_engine: Any, cache: Path, tmp_path: Path
) -> None:
    folder = copy_of_tiny(cache, tmp_path)
    proof = tmp_path / "code-ran"
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(proof)!r}).touch()")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInputError, match="NEURON_ALLOW_REMOTE_CODE"):
        await make_engine(folder=tmp_path).start(LOAD_SECONDS)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"trust_remote_code": True}, InvalidInputError, "NEURON_ALLOW_REMOTE_CODE"),
        ({"devise": "cpu"}, InvalidInputError, "runtime_config: devise"),
        ({"device": "toaster"}, InvalidInputError, "'toaster' is not auto, cpu"),
        ({"device_map": "everywhere"}, InvalidInputError, "device_map: 'everywhere'"),
        ({"load_in_8bit": True, "load_in_4bit": True}, InvalidInputError, "exclude each other"),
        ({"device": "cpu", "load_in_4bit": True}, RuntimeUnavailableError, "bitsandbytes"),
        ({"device": "cpu", "use_flash_attention_2": True}, RuntimeUnavailableError, "flash-attn"),
    ],
)
async def test_a_config_that_cannot_be_honoured_is_refused(
    make_engine: Any, config: dict[str, Any], error: type[NeuronError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await make_engine(**config).start(LOAD_SECONDS)


async def test_a_runtime_that_is_not_installed_says_so(cache: Path) -> None:
    engine = EngineClient(RuntimeType.VLLM, "tiny", "1", {}, EngineSettings(model_cache_dir=cache))
    with pytest.raises(RuntimeUnavailableError, match="the runtime vllm needs vllm"):
        await engine.start(LOAD_SECONDS)
    assert engine.pid is None


async def test_an_interpreter_that_is_not_there_is_named(cache: Path) -> None:
    settings = EngineSettings(
        model_cache_dir=cache, python={RuntimeType.TRANSFORMERS: "/nowhere/bin/python"}
    )
    engine = EngineClient(RuntimeType.TRANSFORMERS, "tiny", "1", {}, settings)
    with pytest.raises(RuntimeUnavailableError, match="/nowhere/bin/python"):
        await engine.start(LOAD_SECONDS)


async def test_an_engine_without_its_engine_library_says_so(cache: Path, tmp_path: Path) -> None:
    """An interpreter whose packages lack torch: its engine starts, and tells the reason."""
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c \"import sys; sys.modules['torch'] = None; "
        'sys.argv.pop(1); exec(sys.argv.pop(1))" "$@"\n'
    )
    python.chmod(0o755)
    settings = EngineSettings(model_cache_dir=cache, python={RuntimeType.TRANSFORMERS: str(python)})
    engine = EngineClient(RuntimeType.TRANSFORMERS, "tiny", "1", {}, settings)
    with pytest.raises(RuntimeUnavailableError, match="torch"):
        await engine.start(LOAD_SECONDS)
    assert not engine.runtime_started


async def test_an_engine_that_dies_while_starting_leaves_its_last_words(
    cache: Path, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 7\n")
    python.chmod(0o755)
    settings = EngineSettings(model_cache_dir=cache, python={RuntimeType.TRANSFORMERS: str(python)})
    lines: list[str] = []
    engine = EngineClient(
        RuntimeType.TRANSFORMERS, "tiny", "1", {}, settings, lambda line: lines.append(line.text)
    )
    with pytest.raises(EngineCrashedError, match=r"exit status 7.*the disk is on fire"):
        await engine.start(LOAD_SECONDS)
    assert lines == ["the disk is on fire"]
    assert not engine.runtime_started


def test_no_secret_reaches_an_engine() -> None:
    environment = {
        "PATH": "/bin", "NEURON_MINIO_SECRET_KEY": "s", "HF_TOKEN": "t", "AWS_ACCESS_KEY_ID": "k",
        "MY_PASSWORD": "p", "CUDA_VISIBLE_DEVICES": "0", "NEURON_CORTEX_TOKEN": "x",
    }  # fmt: skip
    kept = engine_environment(environment)
    assert kept["PATH"] == "/bin"
    assert kept["CUDA_VISIBLE_DEVICES"] == "0"
    assert kept["HF_HUB_OFFLINE"] == "1"
    assert not set("stkpx") & set(kept.values())


def test_the_worker_side_imports_no_engine() -> None:
    code = (
        "import sys, neuron.runtimes.engine_client, neuron.runtimes.registry\n"
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
