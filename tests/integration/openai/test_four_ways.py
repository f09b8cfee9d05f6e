"""However a question is asked, a greedy answer is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import four_ways
import pytest
from openai import AsyncOpenAI
from openai_platform import CONTEXT
from tiny_llama import build_tiny_llama

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

GREEDY: dict[str, Any] = {"model": "chat", "temperature": 0, "max_tokens": 24}


async def test_streamed_whole_batched_and_direct_answers_are_the_same(
    client: AsyncOpenAI, tmp_path: Path
) -> None:
    asked = four_ways.prompts(20)
    whole = await four_ways.whole(client, asked, **GREEDY)
    assert len(set(whole)) > len(asked) / 2, "the model says different things"
    assert await four_ways.streamed(client, asked, **GREEDY) == whole
    assert await four_ways.batched(client, asked, 60, **GREEDY) == whole
    folder = build_tiny_llama(tmp_path / "model", context=CONTEXT)
    parameters = {"temperature": 0, "max_tokens": 24}
    assert await four_ways.direct(folder, asked, parameters) == whole
