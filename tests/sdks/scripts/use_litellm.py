"""litellm: chats, streams, embeddings, and its own classes of errors."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import litellm

MODEL = f"openai/{os.environ['MODEL']}"
WHERE: dict[str, Any] = {
    "api_base": os.environ["OPENAI_BASE_URL"],
    "api_key": "unused",
    "num_retries": 0,
}
MESSAGES = [{"role": "user", "content": "Where is Paris?"}]
GREEDY: dict[str, Any] = {
    "model": MODEL,
    "messages": MESSAGES,
    "temperature": 0,
    "max_tokens": 20,
    **WHERE,
}

COUNTED = {"include_usage": True, "continuous_usage_stats": True}
"""The second is what vLLM's clients and benchmarks say."""


def main() -> None:
    """Use it all."""
    whole = litellm.completion(**GREEDY)
    text = whole.choices[0].message.content
    assert text
    assert whole.usage.completion_tokens == 20
    chunks = list(litellm.completion(**GREEDY, stream=True, stream_options=COUNTED))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert built.usage.completion_tokens == 20
    continued = litellm.text_completion(
        model=f"text-completion-{MODEL}", prompt="One", max_tokens=3, **WHERE
    )
    assert continued.choices[0].text
    reader = f"openai/{os.environ['EMBEDDING_MODEL']}"
    vectors = litellm.embedding(model=reader, input=["One", "Two"], **WHERE)
    assert len(vectors.data) == 2
    try:
        litellm.completion(**GREEDY | {"model": "openai/nobody"})
    except litellm.NotFoundError as error:
        assert "nobody" in str(error)
    else:
        raise AssertionError("a model that is not there answered")
    print("litellm", version("litellm"))


if __name__ == "__main__":
    main()
