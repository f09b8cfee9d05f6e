"""An engine process: `python -m neuron.runtimes.engine_process`, started by an EngineClient.

Three parties share it: the event loop answers requests, the runtime computes in threads of its
own, and a control thread obeys the worker whatever the other two do. It never outlives its
worker: its guard and the kernel see to that, and the end of the control channel ends it too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from contextlib import aclosing
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from ..errors import EngineCrashedError, InvalidInputError, NeuronError
from ..models.job import JobInput, ResumeState
from . import messages
from .base import BaseRuntime, EngineSettings, RuntimeStats
from .channel import Channel
from .engine_guard import EXIT_ORPHANED, guard_engine
from .registry import runtime_class

logger = logging.getLogger(__name__)

_RECEIVE_BYTES = 65536
EXIT_LOAD_FAILED = 3
EXIT_BAD_FRAME = 5
EXIT_LOST = 6
_LAST_FRAMES_SECONDS = 0.2
NICENESS = 5


class ControlThread(threading.Thread):
    """Reads the control channel with blocking calls, so that nothing else can hold it up."""

    def __init__(self, sock: socket.socket, engine: Engine) -> None:
        super().__init__(name="engine-control", daemon=True)
        self._sock = sock
        self._engine = engine
        self._sending = threading.Lock()

    def send(self, message: messages.Message) -> None:
        """Send at once; from any thread."""
        with self._sending:
            self._sock.sendall(messages.encode_frame(message))

    def run(self) -> None:
        decoder: messages.FrameDecoder[messages.ControlToEngine]
        decoder = messages.FrameDecoder(messages.ControlToEngine)
        try:
            while data := self._sock.recv(_RECEIVE_BYTES):
                for message in decoder.feed(data):
                    self._obey(message)
        except messages.FrameError as error:
            _exit(EXIT_BAD_FRAME, f"the control channel broke: {error}")
        except OSError:
            pass
        _exit(EXIT_ORPHANED, "the worker is gone")

    def _obey(self, message: messages.ControlToEngine) -> None:
        if isinstance(message, messages.Ping):
            stats = self._engine.stats()
            self.send(messages.Pong(stats.active_requests, stats.memory_mb, stats.steps))
        else:
            self._engine.obey_soon(message)


class Engine:
    """One runtime with one model, served to one worker."""

    def __init__(self, control: socket.socket, data: socket.socket) -> None:
        self._control = ControlThread(control, self)
        self._data_socket = data
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runtime: BaseRuntime | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._newest_request = 0
        self._cancelled_early: set[int] = set()
        self._shutdown = asyncio.Event()
        self._load: asyncio.Future[messages.Load] | None = None

    async def run(self) -> int:
        """Serve until told to shut down; the process's exit status."""
        self._loop = asyncio.get_running_loop()
        self._load = self._loop.create_future()
        self._control.start()
        self._control.send(messages.Ready(os.getpid()))
        load = await self._load
        if not await self._load_model(load):
            return EXIT_LOAD_FAILED
        async with asyncio.TaskGroup() as group:
            self._data: Channel[messages.DataToEngine] = Channel(
                messages.DataToEngine,
                lambda execute: self._accept(execute, group),
                self._on_data_closed,
            )
            await self._data.open(self._data_socket)
            await self._shutdown.wait()
            for task in self._tasks.values():
                task.cancel()
        assert self._runtime is not None
        await self._runtime.unload_model()
        return 0

    def stats(self) -> RuntimeStats:
        """From any thread."""
        return RuntimeStats() if self._runtime is None else self._runtime.stats()

    def obey_soon(self, message: messages.ControlToEngine) -> None:
        """From the control thread: do it on the event loop."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends anyway
            self._loop.call_soon_threadsafe(self._obey, message)

    def _obey(self, message: messages.ControlToEngine) -> None:
        match message:
            case messages.Cancel():
                self._cancel(message.request_id)
            case messages.Shutdown():
                self._shutdown.set()
            case messages.Load() if self._load is not None and not self._load.done():
                self._load.set_result(message)
            case _:
                logger.warning("unexpected message: %s", type(message).__name__)

    def _cancel(self, request_id: int) -> None:
        if (task := self._tasks.get(request_id)) is not None:
            task.cancel()
        elif request_id > self._newest_request:
            self._cancelled_early.add(request_id)  # it overtook its Execute

    async def _load_model(self, load: messages.Load) -> bool:
        try:
            settings = EngineSettings.model_validate(load.settings)
            logging.getLogger().setLevel(settings.log_level.upper())
            runtime = (await asyncio.to_thread(runtime_class, load.runtime))(settings)
            self._runtime = runtime
            self._control.send(messages.Started())
            await runtime.load_model(load.family, load.version, load.config)
        except Exception as error:  # noqa: BLE001 -- the worker must hear of whatever it was
            failure = _as_neuron_error(error)
            self._control.send(messages.LoadFailed(failure.code, failure.message, failure.details))
            return False
        await asyncio.to_thread(_settle_garbage)
        self._control.send(messages.Loaded(runtime.stats().memory_mb))
        return True

    def _accept(self, execute: messages.Execute, group: asyncio.TaskGroup) -> None:
        request_id = execute.request_id
        self._newest_request = request_id
        if request_id in self._cancelled_early:
            self._cancelled_early.discard(request_id)
            return
        task = group.create_task(self._answer(execute), name=f"request-{request_id}")
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request_id, None))

    async def _answer(self, execute: messages.Execute) -> None:
        try:
            await self._generate(execute)
        except Exception as error:  # noqa: BLE001 -- one bad request fails alone
            failure = _as_neuron_error(error)
            self._data.send(
                messages.Failed(execute.request_id, failure.code, failure.message, failure.details)
            )
            if isinstance(failure, EngineCrashedError) and not self._shutdown.is_set():
                # The device is lost: the worker shall see this process die and start another.
                assert self._loop is not None
                self._loop.call_later(_LAST_FRAMES_SECONDS, _exit, EXIT_LOST, failure.message)

    async def _generate(self, execute: messages.Execute) -> None:
        assert self._runtime is not None
        job_input = JobInput.model_validate(execute.job_input)
        resume = None if execute.resume is None else ResumeState.model_validate(execute.resume)
        async with aclosing(self._runtime.generate(job_input, resume)) as generations:
            async for piece in generations:
                await self._data.drain()
                head = (execute.request_id, piece.text, piece.token_ids)
                if piece.output is None:
                    self._data.send(messages.Delta(*head))
                else:
                    self._data.send(messages.Done(*head, piece.output.model_dump(mode="json")))

    def _on_data_closed(self, reason: str | None) -> None:
        if reason is not None:
            _exit(EXIT_BAD_FRAME, f"the data channel broke: {reason}")


def _settle_garbage() -> None:
    """Clear away what loading left, and never walk again over what stays as long as the model.

    With torch loaded that walk takes some 100 ms, in the middle of somebody's answer.
    """
    gc.collect()
    gc.freeze()


def _as_neuron_error(error: Exception) -> NeuronError:
    if isinstance(error, NeuronError):
        return error
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return InvalidInputError(f"{where}: {first['msg']}" if where else first["msg"])
    traceback.print_exception(error)
    return NeuronError(f"the engine failed: {type(error).__name__}: {error}")


def _exit(status: int, reason: str) -> NoReturn:
    """End now, from any thread, whatever the others do."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"engine exits: {reason}\n")
        sys.stderr.flush()
    os._exit(status)


def _give_way() -> None:
    """Let the worker have the CPU whenever it wants it: cancels and leases before arithmetic.

    Children inherit it. Threads that spin on every core would hold the worker up for many
    milliseconds; it needs very few.
    """
    os.nice(NICENESS)


def _be_killed_first() -> None:
    """Have the kernel, when memory runs out, take this process and its children: no worker."""
    if sys.platform == "linux":
        try:
            Path("/proc/self/oom_score_adj").write_text("1000")
        except OSError as error:
            logger.warning("the kernel may end the worker when memory runs out: %s", error)


def main() -> NoReturn:
    """Serve the worker at the other end of the inherited sockets."""
    parser = argparse.ArgumentParser(prog="neuron-engine")
    for name in ("--control-fd", "--data-fd", "--parent-pid"):
        parser.add_argument(name, type=int, required=True)
    arguments = parser.parse_args()
    sockets = [socket.socket(fileno=fd) for fd in (arguments.control_fd, arguments.data_fd)]
    guard_engine(arguments.parent_pid, sockets)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the worker decides when an engine ends
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    _be_killed_first()
    _give_way()
    for sock in sockets:
        sock.set_inheritable(False)
    status = asyncio.run(Engine(*sockets).run())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # at once: an engine library's exit handlers may hang


if __name__ == "__main__":
    main()
