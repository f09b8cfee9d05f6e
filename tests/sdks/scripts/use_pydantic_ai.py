"""pydantic-ai: an agent that answers in texts, in pieces, and as a pydantic model."""

from __future__ import annotations

import asyncio
import os
from importlib.metadata import version
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel


class City(BaseModel):
    """What an answer is parsed into."""

    name: Literal["Paris", "Rome"]
    large: bool


async def main() -> None:
    """Use it all."""
    model = OpenAIChatModel(os.environ["MODEL"])
    greedy = Agent(
        model, instructions="Be brief.", model_settings={"temperature": 0, "max_tokens": 20}
    )
    whole = await greedy.run("Where is Paris?")
    assert whole.usage.output_tokens == 20
    async with greedy.run_stream("Where is Paris?") as stream:
        assert [piece async for piece in stream.stream_text()][-1] == whole.output
    again = await greedy.run("And Rome?", message_history=whole.all_messages())
    assert again.output
    native = Agent(model, output_type=NativeOutput(City), model_settings={"temperature": 0})
    assert isinstance((await native.run("Where is Paris?")).output, City)
    tools = Agent(model, output_type=City, model_settings={"temperature": 0})
    assert isinstance((await tools.run("Where is Paris?")).output, City)
    print("pydantic-ai", version("pydantic-ai-slim"))


if __name__ == "__main__":
    asyncio.run(main())
