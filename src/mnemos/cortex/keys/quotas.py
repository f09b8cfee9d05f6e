"""How much each key may have waiting, and how many tokens a minute it may use.

What is counted here is this replica's own and in memory: it is forgotten with the process, and
each of several replicas gives a key its tokens a minute. Jobs that wait are counted in the store.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from mnemos.http import ApiError

from ..errors import CortexError
from ..records import NewJob, Submitted
from .bucket import TokenBucket
from .estimate import tokens_of
from .records import ApiKey

ROOM_WITHOUT_LIMIT = 1_000_000
WAITING_RETRY_SECONDS = 0.5
SETTLE_SECONDS = 1.0
SETTLED_AT_ONCE = 500
MOST_UNSETTLED = 100_000
"""Of older jobs the estimate stands."""

Find = Callable[[str], ApiKey | None]
WaitingOf = Callable[[str, int], Awaitable[int]]
SpentOn = Callable[[Collection[str]], Awaitable[Mapping[str, int | None]]]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Charge:
    """What was taken for a job that has not ended."""

    key_id: str
    tokens: int


async def _none_waits(_key_id: str, _most: int) -> int:
    return 0


async def _none_spent(_job_ids: Collection[str]) -> Mapping[str, int | None]:
    return {}


class Quotas:
    """Keeps keys within their limits.

    `find` knows keys, `waiting_of` counts the jobs of one that wait, and `spent_on` says of jobs
    that have ended what they used: None where that is not known. `run()` gives back what jobs
    turned out not to need, and is a task of the owner's group.
    """

    def __init__(
        self,
        find: Find = lambda key_id: None,
        waiting_of: WaitingOf = _none_waits,
        spent_on: SpentOn = _none_spent,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._waiting_of = waiting_of
        self._spent_on = spent_on
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._arriving: Counter[str] = Counter()
        """Jobs that are being stored."""
        self._room_seen: dict[str, int] = {}
        self._charges: OrderedDict[str, Charge] = OrderedDict()

    @asynccontextmanager
    async def admitted(self, key_id: str, jobs: Sequence[NewJob]) -> AsyncIterator[None]:
        """Store jobs within this context; what fails there costs nothing.

        Raises ApiError (429) where the key's limits do not allow them now, 413 where they never
        will.
        """
        key = self._find(key_id)
        if key is None or not key.limited:
            yield
            return
        async with self._place(key, len(jobs)):
            charges = self._take(key, jobs)
            try:
                yield
            except BaseException:
                self._give_back(charges)
                raise

    def stored(self, jobs: Sequence[NewJob], stored: Sequence[Submitted]) -> None:
        """Give back what was taken for jobs that were there already."""
        for new, one in zip(jobs, stored, strict=True):
            if not one.created:
                self._settle(new.job_id, 0)

    async def check_room(self, key_id: str) -> None:
        """Raises ApiError (429) where a key may have no job more waiting."""
        key = self._find(key_id)
        if key is not None:
            async with self._place(key, 1):
                pass

    async def room(self, key_id: str) -> int:
        """How many more jobs a key may submit now; 0 while it must wait.

        For drivers of batches, who wait where others are refused. Raises StorageUnavailableError.
        """
        key = self._find(key_id)
        if key is None or not key.limited:
            return ROOM_WITHOUT_LIMIT
        bucket = self._bucket(key)
        if bucket is not None and bucket.level <= 0:
            return 0
        return await self._room(key)

    def charge(self, key_id: str, jobs: Sequence[NewJob]) -> None:
        """Take the tokens of jobs that a batch's driver stores, though they overdraw the bucket."""
        key = self._find(key_id)
        if key is None or key.tokens_per_minute is None:
            return
        self._note(key, {job.job_id: tokens_of(job) for job in jobs})

    def headers(self, key_id: str) -> dict[str, str]:
        """A key's limits and what is left of them, named as OpenAI names them."""
        key = self._find(key_id)
        if key is None or not key.limited:
            return {}
        told: dict[str, int | str] = {}
        if key.max_waiting_jobs is not None:
            told["x-ratelimit-limit-requests"] = key.max_waiting_jobs
            told["x-ratelimit-remaining-requests"] = self._room_seen.get(
                key_id, key.max_waiting_jobs
            )
        bucket = self._bucket(key)
        if bucket is not None:
            told["x-ratelimit-limit-tokens"] = bucket.per_minute
            told["x-ratelimit-remaining-tokens"] = max(0, int(bucket.level))
            full_in = bucket.wait_seconds(bucket.per_minute)
            told["x-ratelimit-reset-tokens"] = f"{full_in:.3f}s"
        return {name: str(value) for name, value in told.items()}

    async def run(self) -> None:
        """Settle what has ended, until cancelled."""
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            try:
                await self.settle()
            except CortexError as error:
                _log.info("quotas.not_settled", error=error.message)

    async def settle(self) -> None:
        """Correct what was taken for jobs that have ended. Raises StorageUnavailableError."""
        looked_at = list(self._charges)[:SETTLED_AT_ONCE]
        if not looked_at:
            return
        spent = await self._spent_on(looked_at)
        for job_id in looked_at:
            if job_id in spent:
                self._settle(job_id, spent[job_id])
            elif job_id in self._charges:
                self._charges.move_to_end(job_id)  # others are looked at first

    # ------------------------------------------------ jobs that wait

    @asynccontextmanager
    async def _place(self, key: ApiKey, jobs: int) -> AsyncIterator[None]:
        if key.max_waiting_jobs is None:
            yield
            return
        if jobs > key.max_waiting_jobs:
            raise ApiError(
                413,
                "too_large",
                f"The API key {key.name} may have {key.max_waiting_jobs} jobs waiting; "
                f"{jobs} at once are more than that.",
            )
        self._arriving[key.key_id] += jobs
        try:
            if await self._room(key) < 0:
                raise self._refusal(
                    key,
                    f"The API key {key.name} may have {key.max_waiting_jobs} jobs waiting, "
                    "and has them.",
                    WAITING_RETRY_SECONDS,
                )
            yield
        finally:
            self._arriving[key.key_id] -= jobs
            if not self._arriving[key.key_id]:
                del self._arriving[key.key_id]

    async def _room(self, key: ApiKey) -> int:
        if key.max_waiting_jobs is None:
            return ROOM_WITHOUT_LIMIT
        waiting = await self._waiting_of(key.key_id, key.max_waiting_jobs)
        room = key.max_waiting_jobs - waiting - self._arriving[key.key_id]
        self._room_seen[key.key_id] = max(0, room)
        return room

    # ------------------------------------------------ tokens

    def _bucket(self, key: ApiKey) -> TokenBucket | None:
        """The key's bucket as it is now; None where its tokens are not limited."""
        if key.tokens_per_minute is None:
            self._buckets.pop(key.key_id, None)
            return None
        now = self._clock()
        bucket = self._buckets.get(key.key_id)
        if bucket is None:
            bucket = self._buckets[key.key_id] = TokenBucket.full(key.tokens_per_minute, now)
        bucket.fill(now)
        if bucket.per_minute != key.tokens_per_minute:
            bucket.resize(key.tokens_per_minute)
        return bucket

    def _take(self, key: ApiKey, jobs: Sequence[NewJob]) -> Collection[str]:
        bucket = self._bucket(key)
        if bucket is None:
            return ()
        wanted = {job.job_id: tokens_of(job) for job in jobs}
        wait = bucket.wait_seconds(sum(wanted.values()))
        if wait > 0:
            raise self._refusal(
                key,
                f"The API key {key.name} may use {key.tokens_per_minute} tokens a minute; "
                f"for this request there will be room in {wait:.1f} s.",
                wait,
            )
        self._note(key, wanted)
        return wanted

    def _note(self, key: ApiKey, wanted: Mapping[str, int]) -> None:
        bucket = self._bucket(key)
        assert bucket is not None
        for job_id, tokens in wanted.items():
            bucket.take(tokens)
            self._charges[job_id] = Charge(key.key_id, tokens)
        while len(self._charges) > MOST_UNSETTLED:
            self._charges.popitem(last=False)

    def _give_back(self, job_ids: Collection[str]) -> None:
        for job_id in job_ids:
            self._settle(job_id, 0)

    def _settle(self, job_id: str, spent: int | None) -> None:
        charge = self._charges.pop(job_id, None)
        if charge is None or spent is None:
            return
        bucket = self._buckets.get(charge.key_id)
        if bucket is not None:
            bucket.fill(self._clock())
            bucket.take(spent - charge.tokens)

    def _refusal(self, key: ApiKey, message: str, wait_seconds: float) -> ApiError:
        headers = {
            **self.headers(key.key_id),
            "Retry-After": str(max(1, math.ceil(wait_seconds))),
            "retry-after-ms": str(max(1, math.ceil(wait_seconds * 1000))),
        }
        return ApiError(429, "rate_limit_exceeded", message, headers=headers)
