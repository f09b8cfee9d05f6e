"""The examples run as their heads say, against a whole system with a tiny model."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


async def run(url: str, program: str, *arguments: str) -> str:
    """Return what an example prints; fail unless it ends with 0."""
    first = "sh" if program.endswith(".sh") else sys.executable
    variables = {"MNEMOS_CORTEX_URL": url, "MNEMOS_MODEL": "chat:1"}
    process = await asyncio.create_subprocess_exec(
        first,
        str(EXAMPLES / program),
        *arguments,
        env=os.environ | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_chat_and_stream_by_openai_give_the_same_text(cortex_url: str) -> None:
    printed = await run(cortex_url, "openai_chat.py", "Hello")
    whole, _, streamed = printed.partition("---\n")
    assert whole == streamed
    assert whole.strip()


async def test_a_batch_by_openai_is_answered_to_the_last_line(cortex_url: str) -> None:
    lines = (await run(cortex_url, "openai_batch.py", "20")).split("sum-")[1:]
    assert sorted(int(line.partition(":")[0]) for line in lines) == list(range(20))


async def test_a_map_by_our_client_answers_all_and_again_the_same(cortex_url: str) -> None:
    first = (await run(cortex_url, "map_prompts.py", "20")).splitlines()
    again = (await run(cortex_url, "map_prompts.py", "20")).splitlines()
    assert sorted(first) == sorted(again)
    assert sorted(first) == sorted({line for line in first if line.startswith("What is ")})
    assert len(first) == 20


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_curl_alone_is_enough(cortex_url: str) -> None:
    printed = await run(cortex_url, "curl.sh", "Hello")
    assert '"object":"chat.completion"' in printed
    assert "data: [DONE]" in printed
    assert "event: end" in printed
    assert printed.rstrip().endswith('"'), "the answer alone, as JSON"


async def test_the_standard_library_alone_is_enough(cortex_url: str) -> None:
    assert (await run(cortex_url, "stream_a_job.py", "Hello")).strip()
