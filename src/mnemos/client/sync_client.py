"""The client that blocks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
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
from .wire import Call

Item = TypeVar("Item")

TAKING_SECONDS = 0.05
"""For so long items of a `map` are gathered before those that are there are sent."""
CANCEL_SECONDS = 10.0


class Client:
    """CORTEX for programs that block; a context manager that owns its connections.

    `base_url` is MNEMOS_CORTEX_URL unless given (or http://127.0.0.1:8080), `api_key` is
    MNEMOS_API_KEY. `timeout` is how many seconds one request may take, `patience_seconds` how
    long a call is repeated while CORTEX cannot be reached or asks to come back later (every call
    may be repeated: submissions carry an idempotency key). An address at which nobody has ever
    answered is an error at once.

    Safe to share between threads. Raises MnemosError only.
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
        self._pool = httpx2.Client(**self._place.settings())

    @property
    def base_url(self) -> str:
        """Where CORTEX is."""
        return self._place.url

    def __enter__(self) -> Self:
        """Open nothing yet: connections are made by the first call."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        self.close()

    def close(self) -> None:
        """Close every connection. Idempotent. Jobs go on."""
        self._pool.close()

    # ------------------------------------------------ jobs

    def submit(
        self,
        question: Question,
        *,
        model: str,
        stream: bool = False,
        group: str | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Submit one job; it is durable when this returns.

        `question` is a prompt, a list of messages, or a JobRequest; `model` is `family` or
        `family:version`. With `stream`, the answer can be read while it is drawn. The same
        `idempotency_key` gives the same job back, by whomever and whenever it is sent.

        Raises InvalidInputError (`field` says where), NotFoundError for an unknown model,
        ConflictError for a key that another question has.
        """
        body = job_body(as_request(question), model, options)
        body["idempotency_key"] = idempotency_key or secrets.token_hex(16)
        if stream:
            body["input"]["parameters"]["stream"] = True
        if group is not None:
            body["group"] = group
        return Job(self, job_info(self._call(wire.submit_call(body))))

    def get(self, job_id: str) -> Job:
        """Find a job by its id. Raises NotFoundError."""
        return Job(self, job_info(self._call(wire.job_call(job_id))))

    def cancel_group(self, group: str) -> int:
        """Cancel what of a group (a `map`'s `run_id`) has not ended; return how many jobs."""
        return int(self._call(wire.cancel_group_call(group))["cancelled"])

    def map(
        self,
        items: Iterable[Item],
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
    ) -> MapRun[Item]:
        """Ask every item of an iterable, of any length; iterate over the answers as they come.

        Items are taken by the iterating thread, while no more than `window` are taken and not
        yet handed out; so memory is bounded, also with `ordered`, where the answers come in the
        items' order and a slow one holds up those behind it.

        The answers of a `run_id` are kept by CORTEX: iterating again over the same items with
        the same `run_id`, after a crash or for whatever reason, finds every job that was
        submitted before and asks nothing twice.

        An item that fails is an Answer with an `error` (`on_error="raise"` raises it instead);
        a model that does not exist ends it all. Stopping early, by `close()` or Ctrl-C, leaves
        the jobs to go on (so that the same `run_id` finds their answers) unless `on_stop` is
        `cancel`.
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
        return MapRun(self, items, MapState(plan), watch, cancels=on_stop == "cancel")

    # ------------------------------------------------ calls

    def _call(self, call: Call) -> Any:
        """Send a call until it is answered, as long as patience lasts."""
        patience = self._new_patience()
        while True:
            try:
                return self._once(call)
            except MnemosError as error:
                pause = patience.pause_after(error)
            time.sleep(pause)

    def _once(self, call: Call, timeout: float | None = None) -> Any:
        request = wire.build_request(self._pool, call, timeout or self._timeout)
        try:
            response = self._pool.send(request)
        except httpx2.HTTPError as error:
            raise wire.translate(error, self.base_url) from error
        self._was_reached = True
        return wire.read_answer(response)

    def _read_stream(self, call: Call, silence_seconds: float) -> Iterator[bytes]:
        request = wire.build_request(self._pool, call, silence_seconds)
        try:
            response = self._pool.send(request, stream=True)
            try:
                self._was_reached = True
                if response.status_code != 200:
                    response.read()
                    wire.read_answer(response)
                yield from response.iter_bytes()
            finally:
                response.close()
        except httpx2.HTTPError as error:
            raise wire.translate(error, self.base_url) from error

    def _new_patience(self) -> Patience:
        return Patience(self._patience_seconds, self._notice, fail_fast=not self._was_reached)

    def _follow(self, follower: Follower, clock: Clock) -> Iterator[Event]:
        """The events of a job to its end, over as many connections as it takes."""
        patience = self._new_patience()
        while not follower.has_ended():
            try:
                for chunk in self._read_stream(follower.call(), clock.silence_seconds()):
                    patience.succeeded()
                    yield from follower.feed(chunk)
                    clock.check()
                    if follower.has_ended():
                        return
            except MnemosError as error:
                clock.check()
                if error.code == LOG_PRUNED:
                    follower.ended = job_info(self._call(wire.job_call(follower.job_id)))
                    return
                pause = patience.pause_after(error)
            else:  # a CORTEX that stops ends its streams
                pause = 0.2
            time.sleep(clock.cut(pause))


class Job:
    """A job that was submitted. Its methods ask CORTEX; `info` is what was last known."""

    def __init__(self, client: Client, info: JobInfo) -> None:
        self._client = client
        self.info = info

    def __repr__(self) -> str:
        """Its id and its last known status."""
        return f"<Job {self.id} {self.info.status}>"

    @property
    def id(self) -> str:
        """Its id: `client.get(id)` finds it again, from anywhere."""
        return self.info.id

    def status(self) -> str:
        """What state it is in now."""
        return self.refresh().status

    def refresh(self) -> JobInfo:
        """Everything that CORTEX knows of it now."""
        self.info = job_info(self._client._call(wire.job_call(self.id)))
        return self.info

    def wait(self, timeout: float | None = None) -> JobInfo:
        """Return once it has ended, however it did.

        Raises WaitTimeoutError after `timeout` seconds; the job goes on then.
        """
        if not self.info.ended:
            follower = Follower(self.id, wire.CONTINUED)
            for _ in self._client._follow(follower, Clock(self.id, timeout)):
                pass
            assert follower.ended is not None
            self.info = follower.ended
        return self.info

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the answer (a text, mostly), of whatever size.

        Raises JobFailedError, JobCancelledError or JobTimedOutError for a job that ended without
        one, and WaitTimeoutError after `timeout` seconds.
        """
        info = self.wait(timeout)
        failure = info.failure()
        if failure is not None:
            raise failure
        if not info.is_stored_apart:
            return info.result
        return self._client._call(wire.result_call(self.id))

    def stream(
        self,
        *,
        after: int = -1,
        on_restart: OnRestart | None = None,
        timeout: float | None = None,
    ) -> Iterator[Token]:
        """The answer's pieces as they come, each once, over cut connections and restarts of CORTEX.

        `after` goes on behind a token's `sequence`. Where the answer begins anew, because another
        worker could not go on in it, `on_restart` is called with the reason: what came before is
        void; without it AnswerRestartedError is raised. A job that was not submitted with
        `stream=True` gives its whole answer as one piece. Ends as `result()` does.
        """
        follower = Follower(self.id, after)
        reader = TokenReader(self.id, on_restart, after=after)
        for event in self._client._follow(follower, Clock(self.id, timeout)):
            yield from reader.read(event)
        assert follower.ended is not None
        self.info = follower.ended
        failure = self.info.failure()
        if failure is not None:
            raise failure
        yield from reader.rest(self.info, follower.after)

    def cancel(self) -> JobInfo:
        """Cancel it: at once while it waits, through its worker while it runs.

        One that has ended already stays as it is.
        """
        try:
            self.info = job_info(self._client._call(wire.job_call(self.id, "cancel")))
        except ConflictError:
            return self.refresh()
        return self.info

    def retry(self) -> JobInfo:
        """Queue it again after it failed, timed out or was cancelled. Raises ConflictError."""
        self.info = job_info(self._client._call(wire.job_call(self.id, "retry")))
        return self.info


class MapRun(Generic[Item]):
    """The answers of a `map`, to be iterated over once, by one thread.

    As a context manager it stops when the block ends.
    """

    def __init__(
        self,
        client: Client,
        items: Iterable[Item],
        state: MapState[Item],
        watch: Watch,
        *,
        cancels: bool,
    ) -> None:
        self._client = client
        self._state = state
        self._watch = watch
        self._cancels = cancels
        self._source = iter(items)
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

    def __iter__(self) -> Iterator[Answer[Item]]:
        """Answers, as they come or in the items' order."""
        return self

    def __next__(self) -> Answer[Item]:
        """The next answer; takes and submits items, and waits."""
        return next(self._rounds)

    def __enter__(self) -> Self:
        """Nothing is asked before the first answer is wanted."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.close()

    def close(self) -> None:
        """Stop; the jobs go on or are cancelled, as `on_stop` said. Idempotent."""
        self._rounds.close()

    def cancel(self) -> int:
        """Cancel every job of the run that has not ended; return how many. Then `close()`."""
        cancelled = self._client.cancel_group(self.run_id)
        self.close()
        return cancelled

    def _answers(self) -> Generator[Answer[Item], None, None]:
        state = self._state
        try:
            while not state.ended:
                self._take()
                step = state.next_step()
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                elif step is not None:
                    self._carry_out(step)
                self._watch.tell(state.progress)
                yield from state.ready()
            self._watch.end(state.progress)
        finally:
            if self._cancels and not state.ended:
                self._cancel_rest()

    def _take(self) -> None:
        """Take what room there is, but send what is there soon, however slowly items come."""
        items: list[Item] = []
        wanted = self._state.wanted
        began = time.monotonic()
        while len(items) < wanted and time.monotonic() - began < TAKING_SECONDS:
            try:
                items.append(next(self._source))
            except StopIteration:
                self._state.exhausted = True
                break
        self._state.take(items)

    def _carry_out(self, step: Step) -> None:
        try:
            body = self._client._once(step.call)
        except MnemosError as error:
            step.failed(error)
        else:
            step.done(body)

    def _cancel_rest(self) -> None:
        with suppress(MnemosError):  # they are wanted by nobody; they may as well run
            call = wire.cancel_group_call(self.run_id)
            self._client._once(call, timeout=CANCEL_SECONDS)
