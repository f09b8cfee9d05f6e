"""The client that awaits."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, Unpack

import httpx2

from . import wire
from .asking import Options, Question, as_request, job_body
from .clock import Clock
from .errors import ConflictError, MnemosError
from .following import LOG_PRUNED, Event, Follower, OnRestart, TokenReader
from .infos import Answer, JobInfo, Token, job_info
from .mapping import MapPlan, MapState, Pause, Step, length_of, new_run_id
from .patience import Notice, Patience
from .progress import OnProgress, Watch
from .sources import Source, open_source
from .wire import Call

Item = TypeVar("Item")

CANCEL_SECONDS = 10.0


class AsyncClient:
    """CORTEX for programs on an event loop; an async context manager that owns its connections.

    See Client: the arguments, promises and errors are the same. Cancelling a call closes it and
    leaves the job alone.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        patience_seconds: float = 60.0,
        on_notice: Notice | None = None,
    ) -> None:
        self._place = wire.find_place(base_url, api_key)
        self._timeout = timeout
        self._patience_seconds = patience_seconds
        self._notice = on_notice
        self._was_reached = False
        self._pool = httpx2.AsyncClient(**self._place.settings())

    @property
    def base_url(self) -> str:
        """Where CORTEX is."""
        return self._place.url

    async def __aenter__(self) -> Self:
        """Open nothing yet: connections are made by the first call."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        await self.close()

    async def close(self) -> None:
        """Close every connection. Idempotent. Jobs go on."""
        await self._pool.aclose()

    # ------------------------------------------------ jobs

    async def submit(
        self,
        question: Question,
        *,
        model: str,
        stream: bool = False,
        group: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> AsyncJob:
        """Submit one job; see Client.submit."""
        body = job_body(as_request(question), model, options)
        body["idempotency_key"] = idempotency_key or secrets.token_hex(16)
        if stream:
            body["input"]["parameters"]["stream"] = True
        if group is not None:
            body["group"] = group
        return AsyncJob(self, job_info(await self._call(wire.submit_call(body))))

    async def get(self, job_id: str) -> AsyncJob:
        """Find a job by its id. Raises NotFoundError."""
        return AsyncJob(self, job_info(await self._call(wire.job_call(job_id))))

    async def cancel_group(self, group: str) -> int:
        """Cancel what of a group (a `map`'s `run_id`) has not ended; return how many jobs."""
        return int((await self._call(wire.cancel_group_call(group)))["cancelled"])

    def map(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        model: str,
        ordered: bool = False,
        window: int = 2000,
        run_id: str | None = None,
        on_error: Literal["return", "raise"] = "return",
        on_stop: Literal["leave", "cancel"] = "leave",
        on_progress: OnProgress | None = None,
        progress: bool = False,
        total: int | None = None,
        after: str = "",
        patience_seconds: float | None = None,
        whole_results: bool = True,
        **options: Unpack[Options],
    ) -> AsyncMapRun[Item]:
        """Ask every item of an iterable, async or not; `async for` gives the answers as they come.

        See Client.map. Items of an async iterable are awaited beside the answers, so either may
        be slow; those of an ordinary one are taken on the event loop.
        """
        plan = MapPlan(
            model=model,
            options=options,
            run_id=run_id if run_id is not None else new_run_id(),
            ordered=ordered,
            window=window,
            on_error=on_error,
            after=after,
            whole_results=whole_results,
            patience_seconds=self._patience_seconds
            if patience_seconds is None
            else patience_seconds,
            fail_fast=patience_seconds is None and not self._was_reached,
            notice=self._notice,
            total=total if total is not None else length_of(items),
        )
        watch = Watch(on_progress, shows=progress)
        state: MapState[Item] = MapState(plan)
        return AsyncMapRun(self, open_source(items), state, watch, cancels=on_stop == "cancel")

    # ------------------------------------------------ calls

    async def _call(self, call: Call) -> Any:
        """Send a call until it is answered, as long as patience lasts."""
        patience = self._new_patience()
        while True:
            try:
                return await self._once(call)
            except MnemosError as error:
                pause = patience.pause_after(error)
            await asyncio.sleep(pause)

    async def _once(self, call: Call, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - httpx2's
        request = wire.build_request(self._pool, call, timeout or self._timeout)
        try:
            response = await self._pool.send(request)
        except httpx2.HTTPError as error:
            raise wire.translate(error, self.base_url) from error
        self._was_reached = True
        return wire.read_answer(response)

    async def _read_stream(self, call: Call, silence_seconds: float) -> AsyncGenerator[bytes, None]:
        request = wire.build_request(self._pool, call, silence_seconds)
        try:
            response = await self._pool.send(request, stream=True)
            try:
                self._was_reached = True
                if response.status_code != 200:
                    await response.aread()
                    wire.read_answer(response)
                async for chunk in response.aiter_bytes():
                    yield chunk
            finally:
                await response.aclose()
        except httpx2.HTTPError as error:
            raise wire.translate(error, self.base_url) from error

    def _new_patience(self) -> Patience:
        return Patience(self._patience_seconds, self._notice, fail_fast=not self._was_reached)

    async def _follow(self, follower: Follower, clock: Clock) -> AsyncGenerator[Event, None]:
        """The events of a job to its end, over as many connections as it takes."""
        patience = self._new_patience()
        while not follower.has_ended():
            try:
                stream = self._read_stream(follower.call(), clock.silence_seconds())
                async with aclosing(stream) as chunks:
                    async for chunk in chunks:
                        patience.succeeded()
                        for event in follower.feed(chunk):
                            yield event
                        clock.check()
                        if follower.has_ended():
                            return
            except MnemosError as error:
                clock.check()
                if error.code == LOG_PRUNED:
                    follower.ended = job_info(await self._call(wire.job_call(follower.job_id)))
                    return
                pause = patience.pause_after(error)
            else:  # a CORTEX that stops ends its streams
                pause = 0.2
            await asyncio.sleep(clock.cut(pause))


class AsyncJob:
    """A job that was submitted. Its methods ask CORTEX; `info` is what was last known."""

    def __init__(self, client: AsyncClient, info: JobInfo) -> None:
        self._client = client
        self.info = info

    def __repr__(self) -> str:
        """Its id and its last known status."""
        return f"<AsyncJob {self.id} {self.info.status}>"

    @property
    def id(self) -> str:
        """Its id: `client.get(id)` finds it again, from anywhere."""
        return self.info.id

    async def status(self) -> str:
        """What state it is in now."""
        return (await self.refresh()).status

    async def refresh(self) -> JobInfo:
        """Everything that CORTEX knows of it now."""
        self.info = job_info(await self._client._call(wire.job_call(self.id)))
        return self.info

    async def wait(self, timeout: float | None = None) -> JobInfo:  # noqa: ASYNC109 - as Job.wait
        """Return once it has ended, however it did; see Job.wait."""
        if not self.info.ended:
            follower = Follower(self.id, wire.CONTINUED)
            async with aclosing(self._client._follow(follower, Clock(self.id, timeout))) as events:
                async for _ in events:
                    pass
            assert follower.ended is not None
            self.info = follower.ended
        return self.info

    async def result(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as Job.result
        """Wait for the answer, of whatever size; see Job.result."""
        info = await self.wait(timeout)
        failure = info.failure()
        if failure is not None:
            raise failure
        if not info.is_stored_apart:
            return info.result
        return await self._client._call(wire.result_call(self.id))

    async def stream(
        self,
        *,
        after: int = -1,
        on_restart: OnRestart | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as Job.stream
    ) -> AsyncGenerator[Token, None]:
        """The answer's pieces as they come, each once; see Job.stream."""
        follower = Follower(self.id, after)
        reader = TokenReader(self.id, on_restart, after=after)
        async with aclosing(self._client._follow(follower, Clock(self.id, timeout))) as events:
            async for event in events:
                for token in reader.read(event):
                    yield token
        assert follower.ended is not None
        self.info = follower.ended
        failure = self.info.failure()
        if failure is not None:
            raise failure
        for token in reader.rest(self.info, follower.after):
            yield token

    async def cancel(self) -> JobInfo:
        """Cancel it; one that has ended already stays as it is."""
        try:
            self.info = job_info(await self._client._call(wire.job_call(self.id, "cancel")))
        except ConflictError:
            return await self.refresh()
        return self.info

    async def retry(self) -> JobInfo:
        """Queue it again after it failed, timed out or was cancelled. Raises ConflictError."""
        self.info = job_info(await self._client._call(wire.job_call(self.id, "retry")))
        return self.info


class AsyncMapRun(Generic[Item]):
    """The answers of a `map`, to be iterated over once, by one task.

    As an async context manager it stops when the block ends.
    """

    def __init__(
        self,
        client: AsyncClient,
        source: Source[Item],
        state: MapState[Item],
        watch: Watch,
        *,
        cancels: bool,
    ) -> None:
        self._client = client
        self._state = state
        self._watch = watch
        self._cancels = cancels
        self._source = source
        self._poll: asyncio.Task[None] | None = None
        self._rounds = self._answers()

    @property
    def run_id(self) -> str:
        """Give it to another `map` over the same items, and it goes on from here."""
        return self._state.plan.run_id

    @property
    def cursor(self) -> str:
        """How far CORTEX's list of answers is handed out.

        Give it as `after` to a run that leaves out the items whose answers it has.
        """
        return self._state.cursor

    @property
    def submitted(self) -> int:
        """How many jobs CORTEX has taken, those that it had already included."""
        return self._state.accepted

    @property
    def oldest_job_id(self) -> str | None:
        """The job that was submitted first of those that have no answer yet."""
        return self._state.oldest_job_id

    async def __aiter__(self) -> AsyncIterator[Answer[Item]]:
        """Answers, as they come or in the items' order."""
        async with aclosing(self._rounds) as rounds:
            async for answers in rounds:
                for answer in answers:
                    yield answer

    def batches(self) -> AsyncGenerator[Sequence[Answer[Item]], None]:
        """The same answers, as many at a time as have come."""
        return self._rounds

    async def __aenter__(self) -> Self:
        """Nothing is asked before the first answer is wanted."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        await self.close()

    async def close(self) -> None:
        """Stop; the jobs go on or are cancelled, as `on_stop` said. Idempotent."""
        await self._rounds.aclose()

    async def cancel(self) -> int:
        """Cancel every job of the run that has not ended; return how many. Then `close()`."""
        cancelled = await self._client.cancel_group(self.run_id)
        await self.close()
        return cancelled

    async def _answers(self) -> AsyncGenerator[Sequence[Answer[Item]], None]:
        state = self._state
        try:
            while not state.ended:
                items, state.exhausted = await self._source.take(state.wanted)
                state.take(items)
                await self._go_on()
                self._watch.tell(state.progress)
                if answers := list(state.ready()):
                    yield answers
            self._watch.end(state.progress)
        finally:
            await self._stop()

    async def _go_on(self) -> None:
        """Do what can be done at once, and otherwise wait until something can."""
        step = self._state.next_step(polling=self._poll is not None, patient=True)
        if isinstance(step, Pause):
            await self._wait(step.seconds)
        elif step is None:
            if self._source.pending is not None or not self._state.wanted:
                await self._wait()
        elif step.waits:
            # A task of its own: it goes on over a yield, which a group cannot (PEP 789).
            self._poll = asyncio.create_task(self._carry_out(step))  # noqa: TID251
        else:
            await self._carry_out(step)
            self._hurry_poll()

    async def _wait(self, seconds: float | None = None) -> None:
        running = self._running()
        if running:
            await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        elif seconds is not None:
            await asyncio.sleep(seconds)
        if self._poll is not None and self._poll.done():
            poll, self._poll = self._poll, None
            if not poll.cancelled():
                poll.result()

    def _running(self) -> list[asyncio.Future[Any]]:
        return [task for task in (self._poll, self._source.pending) if task is not None]

    def _hurry_poll(self) -> None:
        """A poll that waits for new answers does not hold up those that are there already."""
        if self._poll is not None and self._state.owes:
            self._poll.cancel()

    async def _carry_out(self, step: Step) -> None:
        try:
            body = await self._client._once(step.call)
        except MnemosError as error:
            step.failed(error)
        else:
            step.done(body)

    async def _stop(self) -> None:
        running = self._running()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
            for task in running:
                _ = task.cancelled() or task.exception()  # what ends the run is told by its caller
        if self._cancels and not self._state.ended:
            with suppress(MnemosError):  # they are wanted by nobody; they may as well run
                call = wire.cancel_group_call(self.run_id)
                await self._client._once(call, timeout=CANCEL_SECONDS)
