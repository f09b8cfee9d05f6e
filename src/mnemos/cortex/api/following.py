"""Reading along in jobs' logs until the jobs have ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from ..notifier import job_topic
from ..records import EventRecord
from .context import ApiContext

PAGE = 256
KEEP_ALIVE_SECONDS = 15.0


async def follow(
    cortex: ApiContext, job_ids: Sequence[str], start: int = 0
) -> AsyncGenerator[tuple[int, Sequence[EventRecord]], None]:
    """Yield (place in `job_ids`, its next lines), as they come; no lines where nothing came for
    a while. Ends when every job has ended, or CORTEX stops (`notifier.closed`).

    Lines are read page by page as fast as the reader takes them: nothing piles up for a slow one.
    """
    places = dict.fromkeys(range(len(job_ids)), start)
    with cortex.notifier.subscribe(*map(job_topic, job_ids)) as ear:
        while places and not cortex.notifier.closed:
            ear.clear()
            quiet = True
            for index, place in list(places.items()):
                page = await cortex.store.read_events(job_ids[index], place, PAGE)
                if page.events:
                    quiet = False
                    places[index] = page.events[-1].sequence + 1
                    yield index, page.events
                elif page.ended:
                    quiet = False
                    del places[index]
            if quiet and not await ear.wait(KEEP_ALIVE_SECONDS):
                yield next(iter(places)), ()
