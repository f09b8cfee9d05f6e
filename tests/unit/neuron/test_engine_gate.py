"""Together or alone, in the order of coming, whoever gives up."""

from __future__ import annotations

import asyncio

from neuron.services.engine_gate import EngineGate


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_who_gives_up_waiting_alone_lets_the_others_in() -> None:
    gate = EngineGate()
    leave = asyncio.Event()
    inside: list[str] = []

    async def enter(name: str, *, alone: bool = False) -> None:
        async with gate.hold(alone=alone):
            inside.append(name)
            await leave.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(enter("first"))
        waiting = group.create_task(enter("alone", alone=True))
        await settle()
        group.create_task(enter("second"))
        await settle()
        assert inside == ["first"]
        waiting.cancel()
        await settle()
        assert inside == ["first", "second"]
        leave.set()


async def test_one_who_is_cancelled_inside_leaves_the_place() -> None:
    gate = EngineGate()

    async def stay() -> None:
        async with gate.hold(alone=True):
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        staying = group.create_task(stay())
        await settle()
        staying.cancel()
    async with asyncio.timeout(1), gate.hold(alone=True):
        pass
