"""What waits for a reader, however slow it is."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from neuron.runtimes.inbox import Inbox
from neuron.runtimes.messages import Delta, Done

DONE = Done(1, "!", [9], {"result": "x"})


def delta(text: str, *tokens: int) -> Delta:
    return Delta(1, text, list(tokens))


async def test_a_quick_reader_gets_every_piece() -> None:
    inbox = Inbox()
    for piece in (delta("a", 1), delta("", 2), delta("b"), DONE):
        inbox.put(piece)
        assert await inbox.get() == piece


async def test_a_late_reader_gets_one_piece_and_the_end() -> None:
    inbox = Inbox()
    for piece in (delta("a", 1, 2), delta("", 3), delta("b"), DONE):
        inbox.put(piece)
    assert await inbox.get() == delta("ab", 1, 2, 3)
    assert await inbox.get() == DONE


async def test_what_came_before_a_death_is_not_lost() -> None:
    inbox = Inbox()
    inbox.put(delta("a", 1))
    inbox.put(None)
    assert await inbox.get() == delta("a", 1)
    assert await inbox.get() is None


async def test_an_end_is_the_end() -> None:
    inbox = Inbox()
    inbox.put(DONE)
    inbox.put(None)
    inbox.put(delta("late"))
    assert await inbox.get() == DONE
    assert await inbox.get() == DONE


async def test_a_reader_waits_for_the_next_piece() -> None:
    inbox = Inbox()
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(inbox.get())
        await asyncio.sleep(0)
        assert not reader.done()
        inbox.put(delta("a"))
    assert reader.result() == delta("a")


@given(st.lists(st.tuples(st.text(max_size=3), st.booleans()), max_size=30))
def test_no_text_is_lost_whenever_the_reader_comes(plan: list[tuple[str, bool]]) -> None:
    async def read() -> tuple[str, list[int]]:
        inbox, text, tokens = Inbox(), "", list[int]()
        for place, (piece, reads) in enumerate(plan):
            inbox.put(delta(piece, place))
            if reads:
                got = await inbox.get()
                assert isinstance(got, Delta)
                text, tokens = text + got.text, tokens + got.token_ids
        inbox.put(DONE)
        while isinstance(got := await inbox.get(), Delta):
            text, tokens = text + got.text, tokens + got.token_ids
        return text, tokens

    text, tokens = asyncio.run(read())
    assert text == "".join(piece for piece, _ in plan)
    assert tokens == list(range(len(plan)))
