"""A `map` without its input and output: what to send next, and what an answer means for it.

A driver (one that blocks, one that awaits) takes items while there is room, carries out the steps
that `next_step` names, and hands out what is `ready`. Nothing here waits or sends.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from . import wire
from .asking import JobRequest, Options, as_request, idempotency_key, job_body
from .errors import (
    ApiError,
    InvalidInputError,
    MnemosError,
    NotFoundError,
    error_of_line,
)
from .infos import Answer, JobInfo, Progress, job_info
from .patience import Notice, Patience
from .wire import Call

Item = TypeVar("Item")

BATCH_JOBS = 500
BATCH_BYTES = 8 * 1024 * 1024
SUBMIT_SECONDS = 90.0
"""More than a usual call's: a big batch may wait for its commit."""
PAGE_JOBS = 200
LONG_POLL_SECONDS = 20.0
LOOKUPS = 100
MAX_RUN_ID_CHARACTERS = 100
_HOPELESS_CODES = frozenset({"model_not_found", "not_found"})


@dataclass(frozen=True, kw_only=True)
class MapPlan:
    """What the caller of `map` wants."""

    model: str
    options: Options
    run_id: str
    ordered: bool = False
    window: int = 2000
    on_error: Literal["return", "raise"] = "return"
    after: str = ""
    whole_results: bool = True
    patience_seconds: float = 60.0
    fail_fast: bool = False
    notice: Notice | None = None
    total: int | None = None

    def __post_init__(self) -> None:
        """Raise InvalidInputError for what cannot work."""
        if self.window < 1:
            raise InvalidInputError("window: must be 1 at least.", field="window")
        if not 0 < len(self.run_id) <= MAX_RUN_ID_CHARACTERS or not self.run_id.isprintable():
            raise InvalidInputError(
                f"run_id: must be a text of 1 to {MAX_RUN_ID_CHARACTERS} characters.",
                field="run_id",
            )
        if self.on_error not in ("return", "raise"):
            raise InvalidInputError("on_error: must be return or raise.", field="on_error")


def new_run_id() -> str:
    """A name that no other run has."""
    return f"run_{secrets.token_hex(8)}"


def length_of(items: object) -> int | None:
    """How many items there are, if they say so."""
    return len(items) if isinstance(items, Sized) else None


@dataclass(slots=True)
class Asked(Generic[Item]):
    """An item whose answer is not there yet."""

    index: int
    id: str
    key: str
    item: Item
    body: bytes
    job_id: str = ""
    serial: int = 0
    """Which submission it came with."""
    owed: bool = False
    """CORTEX said that its job had ended when it was submitted: the answer may be behind us."""


class Step(Protocol):
    """A call to make, and what becomes of its answer."""

    waits: ClassVar[bool]
    """Whether CORTEX may take its time over it."""

    @property
    def call(self) -> Call:
        """What to send, once."""

    def done(self, body: Any) -> None:
        """Take the answer."""

    def failed(self, error: MnemosError) -> None:
        """Take that there was none. Raises what ends the map."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing can be sent for so many seconds."""

    seconds: float


class MapState(Generic[Item]):
    """How far a `map` is.

    What was taken and not handed out yet is never more than the window, and so is what is kept.
    """

    def __init__(self, plan: MapPlan) -> None:
        self.plan = plan
        self.cursor = plan.after
        self.exhausted = False
        self.outstanding: dict[str, Asked[Item]] = {}
        self.lookups: deque[Step] = deque()
        self.accepted = 0
        self._taken = 0
        self._handed_out = 0
        self._done = self._failed = self._tokens = 0
        self._batches: deque[list[Asked[Item]]] = deque()
        self._unsent: set[str] = set()
        self._unhanded: deque[Answer[Item]] = deque()
        self._early: dict[int, Answer[Item]] = {}
        self._early_jobs: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._place = plan.after
        self._serial = 0
        self._hold_until = self._poll_hold_until = 0.0
        self._told_lost = False
        self._began = time.monotonic()
        self._outage = Patience(plan.patience_seconds, plan.notice, fail_fast=plan.fail_fast)
        self._limits = Patience(plan.patience_seconds, plan.notice, for_limits=True)

    @property
    def oldest_job_id(self) -> str | None:
        """The job that was submitted first of those that have no answer yet."""
        return next((asked.job_id for asked in self.outstanding.values()), None)

    # ------------------------------------------------ items

    @property
    def room(self) -> int:
        """How many items may be taken now."""
        return 0 if self.exhausted else self.plan.window - (self._taken - self._handed_out)

    @property
    def wanted(self) -> int:
        """How many items to take at a time: the first are worked on while others are taken."""
        return min(self.room, BATCH_JOBS, max(1, self.plan.window // 4))

    @property
    def ended(self) -> bool:
        """Whether every item was taken and every answer is handed out."""
        return self.exhausted and self._taken == self._handed_out

    def take(self, items: Sequence[Item]) -> None:
        """Take items, no more than there is room for; they are sent together."""
        batch: list[Asked[Item]] = []
        size = 0
        for item in items:
            asked = self._prepare(item)
            if asked is None:
                continue
            if batch and (size + len(asked.body) > BATCH_BYTES or len(batch) == BATCH_JOBS):
                self._batches.append(batch)
                batch, size = [], 0
            batch.append(asked)
            self._unsent.add(asked.key)
            size += len(asked.body)
        if batch:
            self._batches.append(batch)

    def _prepare(self, item: Item) -> Asked[Item] | None:
        index = self._taken
        self._taken += 1
        name = str(index)
        try:
            request = as_request(item)
            name = request.id if request.id is not None else name
            key = idempotency_key(self.plan.run_id, name)
            if key in self.outstanding or key in self._unsent:
                raise InvalidInputError(f"id: {name!r} is being asked already.", field="id")
            body = self._body(request, key)
        except InvalidInputError as error:
            self._finish(Answer(index, name, item, None, error))
            return None
        return Asked(index, name, key, item, body)

    def _body(self, request: JobRequest, key: str) -> bytes:
        body = job_body(request, self.plan.model, self.plan.options)
        return wire.encode({**body, "group": self.plan.run_id, "idempotency_key": key})

    # ------------------------------------------------ steps

    def next_step(self, *, polling: bool = False, patient: bool = False) -> Step | Pause | None:
        """What to do now; None when only taking items or a poll that runs can help.

        `patient` says that a poll holds nothing else up, so that it may take its time.
        """
        now = time.monotonic()
        may_poll = bool(self.outstanding) and not polling
        may_read = now >= self._poll_hold_until
        if patient and may_poll and may_read:
            return _Poll(self, self._place, self._poll_seconds(now, patient=True))
        if self._batches and now >= self._hold_until:
            return _Submission(self, self._batches.popleft())
        if self.lookups and may_read:
            return self.lookups.popleft()
        if may_poll and may_read:
            return _Poll(self, self._place, self._poll_seconds(now, patient=False))
        if may_poll:
            return Pause(self._poll_hold_until - now)
        return Pause(self._hold_until - now) if self._batches else None

    def _poll_seconds(self, now: float, *, patient: bool) -> float:
        if self.owes:
            return 0.0
        if patient:
            return LONG_POLL_SECONDS
        if self._unhanded or self.room > 0:
            return 0.0
        if self._batches:
            return min(LONG_POLL_SECONDS, max(0.0, self._hold_until - now))
        return LONG_POLL_SECONDS

    @property
    def owes(self) -> bool:
        """Whether an answer is known to be there already, without our having read it."""
        return any(asked.owed for asked in self.outstanding.values())

    # ------------------------------------------------ submitting

    def submitted(self, batch: list[Asked[Item]], results: list[Mapping[str, Any]]) -> None:
        """Take what became of each job of a batch."""
        self._outage.succeeded()
        self._serial += 1
        later: list[Asked[Item]] = []
        refused: list[tuple[Asked[Item], ApiError]] = []
        for asked, result in zip(batch, results, strict=True):
            if "error" not in result:
                self._accept(asked, result)
            elif (error := error_of_line(result["error"])).retryable:
                later.append(asked)
                self._hold(error)
            else:
                refused.append((asked, error))
        hopeless = [error for _, error in refused if error.code in _HOPELESS_CODES]
        if hopeless and not self.accepted:
            raise hopeless[0]
        for asked, error in refused:
            self._refuse(asked, error)
        if later:
            self._batches.appendleft(later)
        else:
            self._limits.succeeded()

    def _accept(self, asked: Asked[Item], result: Mapping[str, Any]) -> None:
        self.accepted += 1
        self._unsent.discard(asked.key)
        asked.job_id, asked.serial = result["job_id"], self._serial
        asked.owed = not result.get("created", True) and result["status"] in _ENDED
        early = self._early_jobs.pop(asked.key, None)
        self.outstanding[asked.key] = asked
        if early is not None and asked.owed:
            self._answer(asked, job_info(early))

    def not_submitted(self, batch: list[Asked[Item]], error: MnemosError) -> None:
        """Take that a whole request failed: it is sent again, or in halves if it was refused."""
        if error.retryable:
            self._batches.appendleft(batch)
            self._hold(error)
        elif not isinstance(error, InvalidInputError):
            raise error
        elif len(batch) == 1:
            self._refuse(batch[0], error)
        else:  # what spoils the whole request is found, so that the others are still asked
            middle = len(batch) // 2
            self._batches.extendleft((batch[middle:], batch[:middle]))

    def _hold(self, error: MnemosError) -> None:
        now = time.monotonic()
        if now >= self._hold_until:
            self._hold_until = now + self._pause_after(error)

    def _pause_after(self, error: MnemosError) -> float:
        """An outage ends with any answer; a limit when more is taken or something is done.

        While jobs of ours go on, a limit that they may have filled ends sooner or later.
        """
        if isinstance(error, ApiError) and error.status in (0, 429):
            return self._limits.pause_after(error, endless=bool(self.outstanding))
        return self._outage.pause_after(error)

    def _refuse(self, asked: Asked[Item], error: MnemosError) -> None:
        self._unsent.discard(asked.key)
        self._finish(Answer(asked.index, asked.id, asked.item, None, error))

    # ------------------------------------------------ collecting

    def polled(self, page: Mapping[str, Any], serial: int) -> None:
        """Take a page of jobs that have ended."""
        self._outage.succeeded()
        jobs = page["jobs"]
        for job in jobs:
            asked = self.outstanding.get(job.get("idempotency_key") or "")
            if asked is not None:
                self._answer(asked, job_info(job))
            elif not self.exhausted:
                self._remember(job)
        if jobs:
            self._limits.succeeded()
            self._told_lost = False
        self._place = page.get("next_cursor") or self._place
        if not jobs:
            self._look_up_missing(page["counts"], serial)

    def _remember(self, job: Mapping[str, Any]) -> None:
        """Keep the job of an item that an earlier run submitted and this one has yet to take."""
        self._early_jobs[job.get("idempotency_key") or ""] = job
        if len(self._early_jobs) > self.plan.window:
            self._early_jobs.popitem(last=False)

    def _look_up_missing(self, counts: Mapping[str, int], serial: int) -> None:
        """Ask for single jobs where no page brings what should be there."""
        waiting = counts["pending"] + counts["running"]
        missing = (
            asked
            for asked in self.outstanding.values()
            if asked.owed or (not waiting and asked.serial <= serial)
        )
        self.lookups.extend(_Lookup(self, asked) for asked in islice(missing, LOOKUPS))

    def not_polled(self, error: MnemosError) -> None:
        """Take that a page was not read."""
        if isinstance(error, NotFoundError | InvalidInputError) and self._place:
            self._place = ""  # CORTEX has lost what it had, and does not know its own cursor
            return
        self._poll_hold_until = time.monotonic() + self._pause_after(error)

    def looked_up(self, asked: Asked[Item], job: JobInfo) -> None:
        """Take one job that was asked for."""
        self._outage.succeeded()
        asked.owed = False
        if job.ended and asked.key in self.outstanding:
            self._answer(asked, job)

    def lost(self, asked: Asked[Item]) -> None:
        """Submit again what a CORTEX that came back without its data no longer knows."""
        if self.outstanding.pop(asked.key, None) is None:
            return
        self._place = ""
        if not self._told_lost and self.plan.notice is not None:
            self._told_lost = True
            self.plan.notice("CORTEX no longer knows some jobs; submitting them again.")
        self._unsent.add(asked.key)
        if self._batches and len(self._batches[-1]) < BATCH_JOBS:
            self._batches[-1].append(replace(asked, owed=False))
        else:
            self._batches.append([replace(asked, owed=False)])

    # ------------------------------------------------ answers

    def _answer(self, asked: Asked[Item], job: JobInfo) -> None:
        if job.is_stored_apart and self.plan.whole_results:
            self.lookups.append(_Fetch(self, asked, job))
            asked.owed = False
            return
        self.answered(asked, job)

    def answered(self, asked: Asked[Item], job: JobInfo) -> None:
        """Note an answer that is whole."""
        if self.outstanding.pop(asked.key, None) is not None:
            self._finish(Answer(asked.index, asked.id, asked.item, job, job.failure()))

    def _finish(self, answer: Answer[Item]) -> None:
        self._done += 1
        self._failed += not answer.ok
        self._tokens += (answer.job.usage.completion_tokens or 0) if answer.job else 0
        if self.plan.ordered:
            self._early[answer.index] = answer
        else:
            self._unhanded.append(answer)

    def ready(self) -> Iterator[Answer[Item]]:
        """Hand out what can be handed out now; raises the first error where that is wanted."""
        while (answer := self._next_ready()) is not None:
            self._handed_out += 1
            if not self._unhanded and not self._early:
                self.cursor = self._place
            if answer.error is not None and self.plan.on_error == "raise":
                raise _named(answer.error, answer.id)
            yield answer

    def _next_ready(self) -> Answer[Item] | None:
        if self.plan.ordered:
            return self._early.pop(self._handed_out, None)
        return self._unhanded.popleft() if self._unhanded else None

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            done=self._done,
            failed=self._failed,
            in_flight=self._taken - self._done,
            total=self._taken if self.exhausted else self.plan.total,
            completion_tokens=self._tokens,
            seconds=time.monotonic() - self._began,
        )


_ENDED = frozenset({"completed", "failed", "cancelled", "timeout"})


def _named(error: MnemosError, item_id: str) -> MnemosError:
    error.add_note(f"This became of the item {item_id!r}.")
    return error


class _Submission(Generic[Item]):
    waits: ClassVar[bool] = False

    def __init__(self, state: MapState[Item], batch: list[Asked[Item]]) -> None:
        self._state = state
        self._batch = batch

    @property
    def call(self) -> Call:
        content = b'{"jobs":[' + b",".join(asked.body for asked in self._batch) + b"]}"
        return Call("POST", "/api/v1/jobs/batch", content, extra_seconds=SUBMIT_SECONDS)

    def done(self, body: Any) -> None:
        self._state.submitted(self._batch, body["results"])

    def failed(self, error: MnemosError) -> None:
        self._state.not_submitted(self._batch, error)


class _Poll(Generic[Item]):
    waits: ClassVar[bool] = True

    def __init__(self, state: MapState[Item], place: str, wait_seconds: float) -> None:
        self._state = state
        self._place = place
        self._wait_seconds = wait_seconds
        self._serial = state._serial

    @property
    def call(self) -> Call:
        group = self._state.plan.run_id
        return wire.group_call(group, self._place, PAGE_JOBS, self._wait_seconds)

    def done(self, body: Any) -> None:
        self._state.polled(body, self._serial)

    def failed(self, error: MnemosError) -> None:
        self._state.not_polled(error)


class _Lookup(Generic[Item]):
    waits: ClassVar[bool] = False

    def __init__(self, state: MapState[Item], asked: Asked[Item]) -> None:
        self._state = state
        self._asked = asked

    @property
    def call(self) -> Call:
        return wire.job_call(self._asked.job_id)

    def done(self, body: Any) -> None:
        self._state.looked_up(self._asked, job_info(body))

    def failed(self, error: MnemosError) -> None:
        if isinstance(error, NotFoundError):
            self._state.lost(self._asked)
            return
        self._state.not_polled(error)
        self._state.lookups.append(self)


class _Fetch(Generic[Item]):
    """Brings an answer that CORTEX does not keep beside its job."""

    waits: ClassVar[bool] = False

    def __init__(self, state: MapState[Item], asked: Asked[Item], job: JobInfo) -> None:
        self._state = state
        self._asked = asked
        self._job = job

    @property
    def call(self) -> Call:
        return wire.result_call(self._job.id)

    def done(self, body: Any) -> None:
        self._state.answered(self._asked, replace(self._job, result=body))

    def failed(self, error: MnemosError) -> None:
        if not error.retryable:
            self._state.answered(self._asked, self._job)  # all that is left: where it lies
            return
        self._state.not_polled(error)
        self._state.lookups.append(self)
