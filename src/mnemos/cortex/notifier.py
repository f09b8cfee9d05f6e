"""Wake-ups: whoever waits for a change is told at once, and nobody asks again and again."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Protocol


def runtime_topic(runtime: str) -> str:
    """Jobs that this runtime can take may be waiting."""
    return f"runtime/{runtime}"


def job_topic(job_id: str) -> str:
    """The job has a new event."""
    return f"job/{job_id}"


def group_topic(group: str) -> str:
    """A job of the group finished, or the group has changed."""
    return f"group/{group}"


def worker_topic(worker_id: str) -> str:
    """The worker has a new action or another desired state."""
    return f"worker/{worker_id}"


BATCHES_TOPIC = "batches"
"""A batch is new, shall stop, or has no driver any more."""

KEYS_TOPIC = "keys"
"""API keys have changed."""

END_TOPIC = "end"
"""Nothing is said about it: who listens is woken at the end, and whenever all are."""

DELAYED_TOPIC = "delayed"
"""A job was put back with a delay."""


class Subscription(Protocol):
    """One waiter's ear on some topics."""

    def clear(self) -> None:
        """Forget what was heard; called before looking at the store, so that nothing is missed."""

    async def wait(self, timeout_seconds: float | None) -> bool:
        """Return True once something is heard, False when the time is over or at the end."""


class Notifier(Protocol):
    """Carries wake-ups from commits to waiters; hints only, never data."""

    @property
    def closed(self) -> bool:
        """True once the server stops: waiters answer what they have."""

    def notify(self, topics: Iterable[str]) -> None:
        """Wake all who listen to one of `topics`."""

    def wake_all(self) -> None:
        """Wake everybody: something may have been missed."""

    def subscribe(self, *topics: str) -> contextlib.AbstractContextManager[Subscription]:
        """Listen while the context lasts."""


class LocalSubscription:
    """An asyncio event on some topics of a LocalNotifier."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def clear(self) -> None:
        """Forget what was heard."""
        self.event.clear()

    async def wait(self, timeout_seconds: float | None) -> bool:
        """Return True once something is heard, False when the time is over."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.event.wait()
        except TimeoutError:
            return False
        return True


class LocalNotifier:
    """A Notifier inside one process and one event loop."""

    def __init__(self) -> None:
        self._ears: defaultdict[str, set[LocalSubscription]] = defaultdict(set)
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once the server stops."""
        return self._closed

    @property
    def listeners(self) -> int:
        """How many (topic, waiter) pairs there are, for tests and curious people."""
        return sum(len(ears) for ears in self._ears.values())

    @property
    def topics(self) -> frozenset[str]:
        """What is listened to, for the same."""
        return frozenset(self._ears)

    def notify(self, topics: Iterable[str]) -> None:
        """Wake all who listen to one of `topics`. Called in the loop's thread."""
        for topic in topics:
            for ear in self._ears.get(topic, ()):
                ear.event.set()

    def wake_all(self) -> None:
        """Wake everybody: something may have been missed."""
        self.notify(list(self._ears))

    @contextlib.contextmanager
    def subscribe(self, *topics: str) -> Iterator[LocalSubscription]:
        """Listen to `topics` while the context lasts."""
        ear = LocalSubscription()
        for topic in topics:
            self._ears[topic].add(ear)
        try:
            yield ear
        finally:
            for topic in topics:
                self._ears[topic].discard(ear)
                if not self._ears[topic]:
                    del self._ears[topic]

    def close(self) -> None:
        """Wake everybody for the last time."""
        self._closed = True
        self.wake_all()
