"""The worker's side of an engine process: start it, ask it, outlive it."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from ..errors import (
    EngineCrashedError,
    ErrorCode,
    InvalidInputError,
    JobTimeoutError,
    NeuronError,
    RuntimeUnavailableError,
    error_from_code,
)
from ..models.job import JobInput, JobOutput, ResumeState
from ..models.runtime import RuntimeType
from . import messages
from .base import EngineSettings, Generation
from .channel import Channel
from .engine_guard import END
from .engine_spawn import EngineLogLine, EngineProcess, describe_exit, engine_command
from .engine_watch import StallWatch
from .inbox import Answer, Inbox
from .registry import runtime_availability
from .runtime_config import check_config

__all__ = ["EngineClient", "EngineLogLine"]

STALL_SECONDS = 120.0
_REAP_SECONDS = 5.0
_HANG_UP_SECONDS = 1.0
_LAST_WORDS = 3


class EngineClient:
    """One model in one engine process, from `start` to `stop`.

    All methods belong to one event loop. There are no tasks to own: everything happens in the
    loop's callbacks, so `start` and `stop` may be called from different tasks.

    A loaded engine that holds requests and makes no step for `stall_seconds`, or that does not
    answer its control channel for as long, is ended: its requests raise EngineCrashedError.
    """

    def __init__(
        self,
        runtime: RuntimeType,
        family: str,
        version: str,
        config: Mapping[str, Any],
        settings: EngineSettings,
        on_log: Callable[[EngineLogLine], None] | None = None,
        *,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.runtime = runtime
        self.model = f"{family}:{version}"
        self._load = messages.Load(
            runtime=runtime,
            family=family,
            version=version,
            config=dict(config),
            settings=settings.model_dump(mode="json"),
        )
        self._settings = settings
        self._on_log = on_log
        self._process: EngineProcess | None = None
        self._pid: int | None = None
        self._control: Channel[messages.ControlToWorker] | None = None
        self._data: Channel[messages.DataToWorker] | None = None
        self._loading: asyncio.Future[messages.Loaded] | None = None
        self._requests: dict[int, Inbox] = {}
        self._ids = itertools.count(1)
        self._runtime_started = False
        self._loaded = False
        self._stopping = False
        self._broken: str | None = None
        self._verdict: str | None = None
        self._jobs_at_death = 0
        self._watch = StallWatch(stall_seconds)
        self._ping_timer: asyncio.TimerHandle | None = None
        self._last_heard = time.monotonic()
        self._load_seconds = 0.0
        self._memory_mb = 0
        self._steps = 0
        self._engine_requests = 0

    @property
    def pid(self) -> int | None:
        """The engine's process id, once it was started; kept when it is gone."""
        if self._pid is None and self._process is not None:
            return self._process.pid
        return self._pid

    @property
    def runtime_started(self) -> bool:
        """Whether the runtime itself could start: its class was imported and made.

        Where `start` raised EngineCrashedError or RuntimeUnavailableError and this is False, no
        model of this runtime can be loaded here; else the trouble is this model's.
        """
        return self._runtime_started

    @property
    def is_alive(self) -> bool:
        """Whether the model is loaded and its process runs."""
        return self._loaded and not self._stopping and not self._is_dead

    @property
    def load_seconds(self) -> float:
        """How long `start` took, process start included."""
        return self._load_seconds

    @property
    def active_requests(self) -> int:
        """Requests that were asked and have not ended."""
        return len(self._requests)

    @property
    def memory_mb(self) -> int:
        """What the engine held when it last said so: GPU memory if on a GPU, else RAM."""
        return self._memory_mb

    @property
    def steps(self) -> int:
        """Grows while the engine makes progress."""
        return self._steps

    @property
    def engine_requests(self) -> int:
        """Requests that the engine held when it last said so."""
        return self._engine_requests

    @property
    def silent_seconds(self) -> float:
        """How long ago the engine last answered on its control channel."""
        return time.monotonic() - self._last_heard

    async def start(self, timeout_seconds: float) -> None:
        """Start the process and load the model; to be called once.

        On failure, timeout and cancellation no process is left.

        Raises:
            NeuronError: why the model cannot be loaded here.
            JobTimeoutError: it took longer than `timeout_seconds`.
            EngineCrashedError: the process died.
        """
        if self._process is not None:
            raise RuntimeError("an engine is started once")
        if (reason := runtime_availability(self.runtime, self._python)) is not None:
            raise RuntimeUnavailableError(reason)
        check_config(self.runtime, self._load.config, self._settings)
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._spawn_and_load()
        except TimeoutError as error:
            raise JobTimeoutError(
                f"loading {self.model} took longer than {timeout_seconds:g} s"
            ) from error
        finally:
            if not self._loaded:
                await self._kill_and_reap()
        self._load_seconds = time.monotonic() - began
        self._keep_pinging()

    async def generate(
        self, job_input: JobInput, resume: ResumeState | None = None
    ) -> AsyncGenerator[Generation, None]:
        """Answer, piece by piece; the last piece has the output. Many may run at once.

        Closing the generator, or cancelling the task that reads it, tells the engine at once
        and waits for nothing.

        Raises:
            NeuronError: this request failed.
            EngineCrashedError: the process died or was ended. The details tell its `exit` cause,
                its `last_lines`, and as `engine_jobs` how many requests were open when it died,
                this one included; 0 for a request that came after that.
        """
        if not self.is_alive or self._data is None:
            raise self._death(engine_jobs=0)
        request_id = next(self._ids)
        answers = self._requests[request_id] = Inbox()
        ended = False
        try:
            await self._send_request(request_id, job_input, resume)
            while not ended:
                answer = await answers.get()
                ended = not isinstance(answer, messages.Delta)
                yield self._generation(answer)
        finally:
            self._requests.pop(request_id, None)
            if not ended and self._control is not None:
                self._control.send(messages.Cancel(request_id))
            elif not self._requests:
                self._watch.answered_everything()

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """End the engine, by force after `grace_seconds`; nothing if it is gone already.

        Open requests raise EngineCrashedError. No process is left, on cancellation neither.
        """
        if self._process is None:
            return
        self._stopping |= not self._is_dead  # what died by itself has a cause to tell
        try:
            if self._control is not None and not self._is_dead:
                self._control.send(messages.Shutdown())
                async with asyncio.timeout(grace_seconds):
                    await self._process.closed.wait()
        except TimeoutError:
            pass
        finally:
            await self._kill_and_reap()

    def condemn(self, reason: str) -> None:
        """End the engine now, with all that it started; nothing if it is gone or stopping.

        Open requests raise EngineCrashedError, which tells the reason. Returns at once;
        `wait_closed` tells when the process is gone.
        """
        self._condemn(f"was ended: {reason}")

    def ping(self) -> None:
        """Have the engine say how it is; happens by itself every few seconds."""
        if self._control is not None and not self._is_dead:
            self._control.send(messages.Ping())

    async def wait_closed(self) -> None:
        """Return when the process is gone; at once if there is none."""
        if self._process is not None:
            await self._process.closed.wait()

    @property
    def _python(self) -> str | None:
        return self._settings.python.get(self.runtime)

    @property
    def _is_dead(self) -> bool:
        process = self._process
        return process is None or process.returncode is not None or self._broken is not None

    async def _spawn_and_load(self) -> None:
        self._loading = asyncio.get_running_loop().create_future()
        control, control_engine = socket.socketpair()
        data, data_engine = socket.socketpair()
        with control_engine, data_engine:
            self._control = Channel(messages.ControlToWorker, self._on_control, self._on_closed)
            self._data = Channel(messages.DataToWorker, self._on_data, self._on_closed)
            await self._control.open(control)
            await self._data.open(data)
            self._process = EngineProcess(self._on_log)
            fds = (control_engine.fileno(), data_engine.fileno())
            try:
                await self._process.spawn(engine_command(self._python, *fds), fds)
            except OSError as error:
                raise RuntimeUnavailableError(
                    f"the interpreter for {self.runtime} cannot be started: {error}"
                ) from error
        self._control.send(self._load)
        loaded = await self._loading
        self._memory_mb = loaded.memory_mb
        self._loaded = True

    async def _send_request(
        self, request_id: int, job_input: JobInput, resume: ResumeState | None
    ) -> None:
        assert self._data is not None
        execute = messages.Execute(
            request_id,
            job_input.model_dump(mode="json", exclude_none=True),
            None if resume is None else resume.model_dump(mode="json"),
        )
        try:
            self._data.send(execute)
        except messages.FrameError as error:
            raise InvalidInputError(f"the job's input cannot reach the engine: {error}") from error
        await self._data.drain()

    def _generation(self, answer: Answer) -> Generation:
        match answer:
            case messages.Delta():
                return Generation(answer.text, answer.token_ids)
            case messages.Done():
                output = JobOutput.model_validate(answer.output)
                return Generation(answer.text, answer.token_ids, output)
            case messages.Failed():
                raise self._failure(answer)
            case None:
                raise self._death(self._jobs_at_death)

    def _on_control(self, message: messages.ControlToWorker) -> None:
        self._last_heard = time.monotonic()
        match message:
            case messages.Pong():
                self._watch.heard()
                self._memory_mb, self._steps = message.memory_mb, message.steps
                self._engine_requests = message.active_requests
            case messages.Ready():
                self._pid = message.pid
            case messages.Started():
                self._runtime_started = True
            case messages.Loaded() if self._loading is not None and not self._loading.done():
                self._loading.set_result(message)
            case messages.LoadFailed() if self._loading is not None and not self._loading.done():
                self._loading.set_exception(self._failure(message))
            case _:
                pass

    def _on_data(self, message: messages.DataToWorker) -> None:
        if isinstance(message, messages.Failed) and message.code == ErrorCode.ENGINE_CRASHED:
            self._note_death()  # it tells before it goes
        if (answers := self._requests.get(message.request_id)) is not None:
            answers.put(message)

    def _on_closed(self, reason: str | None) -> None:
        """A channel ended: the engine died, or must now."""
        if self._broken is not None:
            return
        self._broken = reason or ""
        self._note_death()
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        if self._process is not None:
            if not self._stopping:
                self._process.when_closed(self._fail_everything)
            # A process that hangs up is dying; one that is not must not live on unheard.
            delay = _HANG_UP_SECONDS if reason is None else 0
            asyncio.get_running_loop().call_later(delay, self._process.kill)

    def _fail_everything(self) -> None:
        """Raise in all who wait, now that the cause and the last words are known."""
        if self._loading is not None and not self._loading.done():
            self._loading.set_exception(self._death(engine_jobs=0))
            self._loading.exception()  # seen: where nobody waits any more, it is no news
        for answers in self._requests.values():
            answers.put(None)

    def _note_death(self) -> None:
        """Remember who was there; the first sign of a death counts."""
        self._jobs_at_death = self._jobs_at_death or len(self._requests)

    def _condemn(self, verdict: str) -> None:
        if self._process is not None and not self._is_dead and not self._stopping:
            self._verdict = verdict
            self._on_closed("")

    def _keep_pinging(self) -> None:
        if self._is_dead:
            return
        busy = bool(self._requests or self._engine_requests)
        if (trouble := self._watch.tick(self._steps, busy=busy)) is not None:
            self._condemn(f"{trouble} and was ended")
            return
        self.ping()
        loop = asyncio.get_running_loop()
        self._ping_timer = loop.call_later(self._watch.interval, self._keep_pinging)

    async def _kill_and_reap(self) -> None:
        """Leave no process, no timer and no socket; bounded, whatever the engine does."""
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        process = self._process
        if process is not None and process.pid is not None:
            process.kill()
            async with asyncio.timeout(_REAP_SECONDS):
                await process.closed.wait()
        for channel in (self._control, self._data):
            if channel is not None:
                channel.close()
        self._fail_everything()

    def _death(self, engine_jobs: int) -> EngineCrashedError:
        process = self._process
        if self._stopping or process is None:
            return EngineCrashedError(f"the engine for {self.model} is not running")
        lines = list(process.last_lines)
        cause = self._verdict or self._exit_cause(process)
        words = " | ".join(lines[-_LAST_WORDS:])[-500:] if lines else "none"
        fate = self._verdict or f"died ({cause}); its last words: {words}"
        return EngineCrashedError(
            f"the engine for {self.model} {fate}",
            exit=cause,
            last_lines=lines,
            engine_jobs=engine_jobs,
        )

    def _exit_cause(self, process: EngineProcess) -> str:
        status = process.returncode
        if status is None or (process.killed and -status in {signal.SIGKILL, END}):
            return self._broken or "its channels closed"
        return describe_exit(status)

    def _failure(self, failure: messages.Failed | messages.LoadFailed) -> NeuronError:
        code, details = ErrorCode(failure.code), failure.details
        if code is ErrorCode.ENGINE_CRASHED:
            details = {**details, "engine_jobs": self._jobs_at_death}
        return error_from_code(code, failure.message, details)
