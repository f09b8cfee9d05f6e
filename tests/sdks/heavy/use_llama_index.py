"""llama-index by OpenAILike: chats, streams, completes."""

from __future__ import annotations

import os
from importlib.metadata import version

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

ASKED = [ChatMessage(role="user", content="Where is Paris?")]


def main() -> None:
    """Use it all."""
    model = OpenAILike(
        model=os.environ["MODEL"], api_base=os.environ["OPENAI_BASE_URL"], api_key="unused",
        is_chat_model=True, temperature=0, max_tokens=20, max_retries=0, context_window=2048,
    )  # fmt: skip
    whole = model.chat(ASKED).message.content
    assert whole
    assert "".join(piece.delta or "" for piece in model.stream_chat(ASKED)) == whole
    assert model.complete("Where is Paris?").text
    print("llama-index-llms-openai-like", version("llama-index-llms-openai-like"))


if __name__ == "__main__":
    main()
