"""AsyncLLM with nothing around it: `vllm_direct.py FOLDER TOKENS MAX_MODEL_LEN`.

It runs in vLLM's environment. For each line `FIRST COUNT` that it reads it asks for COUNT
answers at once and prints `> SECONDS`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

PROMPT = "Tell me a story about the number {}."


async def main(folder: Path, tokens: int, max_model_len: int) -> None:
    """Load, say so, and serve standard input until it ends."""
    from transformers import AutoTokenizer
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from neuron.models.runtime import VLLMConfig
    from neuron.runtimes.vllm_engine.arguments import cpu_arguments, engine_arguments

    config = VLLMConfig(dtype="float32", max_num_seqs=64, max_model_len=max_model_len)
    arguments = engine_arguments(folder, "direct", config)
    arguments |= cpu_arguments(config, fast_bfloat16=False, free_bytes=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
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
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
