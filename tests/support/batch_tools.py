"""Words of tests about batches: files of requests, and a hand that answers them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from cortex_tools import Cortex, eventually
from openai import AsyncOpenAI
from openai.types import Batch
from openai_tools import complete, fail

CHATS: Literal["/v1/chat/completions"] = "/v1/chat/completions"


def line(custom_id: str, **changes: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": custom_id}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHATS, "body": body | changes}


async def upload(client: AsyncOpenAI, *lines: dict[str, Any] | str) -> str:
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    file = await client.files.create(file=("in.jsonl", text.encode()), purpose="batch")
    assert file.bytes == len(text.encode())
    return file.id


async def start(client: AsyncOpenAI, file_id: str, **more: Any) -> Batch:
    return await client.batches.create(
        input_file_id=file_id, endpoint=CHATS, completion_window="24h", **more
    )


async def until(client: AsyncOpenAI, batch: Batch, *states: str) -> Batch:
    known = batch

    async def has_come() -> bool:
        nonlocal known
        known = await client.batches.retrieve(batch.id)
        return known.status in states

    await eventually(has_come, f"the batch is {states}", seconds=30)
    return known


async def lines_of(client: AsyncOpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    if file_id is None:
        return {}
    told = [json.loads(each) for each in (await client.files.content(file_id)).text.splitlines()]
    assert len({each["custom_id"] for each in told}) == len(told), "a line is told twice"
    return {each["custom_id"]: each for each in told}


async def answer_all(cortex: Cortex, count: int) -> None:
    """Answer jobs as a worker would; those that ask for failure fail."""
    while count:
        leased = await cortex.acquire(max_jobs=min(8, count), wait=10)
        assert leased, f"{count} more jobs were to come"
        for one in leased:
            asked = one.job.input.messages[0].content
            if asked.startswith("fail"):
                await fail(cortex, one.job.job_id, "invalid_input", one.attempt)
            else:
                await complete(cortex, one.job.job_id, f"re: {asked}", one.attempt)
        count -= len(leased)


def objects_in(root: Path) -> list[str]:
    """What lies in the bucket of files, below the folder that the test's CORTEX has."""
    bucket = root / "engram" / "mnemos-files"
    return sorted(str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file())
