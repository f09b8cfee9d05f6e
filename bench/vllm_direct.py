"""AsyncLLM with nothing around it: `vllm_direct.py ENGINE_ARGUMENTS TOKENS`.

It runs in vLLM's environment. For each line `FIRST COUNT` that it reads it asks for COUNT
answers at once and prints `> SECONDS`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

PROMPT = "Tell me a story about the number {}."


async def main(arguments: dict[str, Any], tokens: int) -> None:
    """Load, say so, and serve standard input until it ends."""
    from transformers import AutoTokenizer
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    tokenizer = AutoTokenizer.from_pretrained(arguments["tokenizer"])
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        first, count = map(int, line.split())
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for index in range(first, first + count):
                group.create_task(answer(llm, tokenizer, index, tokens))
        say(str(time.monotonic() - start))
    llm.shutdown(timeout=2)


async def answer(llm: Any, tokenizer: Any, index: int, tokens: int) -> None:
    """One chat answer of exactly `tokens` tokens, its text and every delta included."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    chat = [{"role": "user", "content": PROMPT.format(index)}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    prompt = {"prompt_token_ids": tokenizer.encode(text, add_special_tokens=False)}
    parameters = SamplingParams(
        max_tokens=tokens,
        temperature=0,
        ignore_eos=True,
        output_kind=RequestOutputKind.DELTA,
    )
    drawn = 0
    async for output in llm.generate(prompt, parameters, str(index)):
        drawn += len(output.outputs[0].token_ids)
    assert drawn == tokens


def say(word: str) -> None:
    """Print a line that the benchmark reads."""
    print(f"> {word}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), int(sys.argv[2])))
