# mypy: disable-error-code="union-attr, arg-type, misc"
"""OpenAI's own client, whichever version is installed: everything that it is used for here."""

from __future__ import annotations

import io
import json
import os
import time
from typing import Any, Literal

import openai
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Where is Paris?"}],
    "temperature": 0,
}


class City(BaseModel):
    """What an answer, or a call of a tool, is parsed into."""

    name: Literal["Paris", "Rome"]  # a tiny model would never end a text that it may choose
    large: bool


def main() -> None:
    """Use it all; an assertion fails where the server is not what the client takes it for."""
    with openai.OpenAI(max_retries=0, timeout=30) as client:
        chats(client)
        forms(client)
        texts_and_vectors(client)
        models(client)
        errors(client)
        batch(client)
    print("openai", openai.__version__)


def chats(client: openai.OpenAI) -> None:
    """Whole and streamed answers are the same, and are counted."""
    whole = client.chat.completions.create(**CHAT, max_tokens=20, logprobs=True, top_logprobs=2)
    text = whole.choices[0].message.content
    assert text
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens == 20
    with client.chat.completions.create(
        **CHAT, max_tokens=20, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "length"
    several = client.chat.completions.create(**CHAT | {"temperature": 1}, n=2, max_tokens=5, seed=3)
    assert [choice.index for choice in several.choices] == [0, 1]


def forms(client: openai.OpenAI) -> None:
    """A pydantic model is filled in, as an answer and as what a tool is called with."""
    parse = getattr(client.chat.completions, "parse", None) or client.beta.chat.completions.parse
    answer = parse(**CHAT, response_format=City)
    assert isinstance(answer.choices[0].message.parsed, City)
    tool = openai.pydantic_function_tool(City)
    answer = parse(**CHAT, tools=[tool], tool_choice="required")
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, City)


def texts_and_vectors(client: openai.OpenAI) -> None:
    """Completions and embeddings."""
    answer = client.completions.create(
        model=MODEL, prompt=["One", "Two"], max_tokens=4, echo=True, temperature=0
    )
    assert [choice.text[:3] for choice in answer.choices] == ["One", "Two"]
    reader = os.environ["EMBEDDING_MODEL"]
    packed = client.embeddings.create(model=reader, input=["One", "Two"])
    plain = client.embeddings.create(model=reader, input=["One", "Two"], encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert max(abs(a - b) for a, b in zip(one.embedding, other.embedding, strict=True)) < 1e-6


def models(client: openai.OpenAI) -> None:
    """Every model that is listed can be asked for."""
    listed = [model.id for model in client.models.list()]
    assert MODEL in listed
    assert client.models.retrieve(MODEL).id == MODEL


def errors(client: openai.OpenAI) -> None:
    """Errors are of the class that a caller looks for, and say what was wrong."""
    try:
        client.chat.completions.create(**CHAT | {"model": "org/nobody:lora"})
    except openai.NotFoundError as error:
        assert (error.code, error.param) == ("model_not_found", "model"), error
        assert error.request_id
    else:
        raise AssertionError("a model that is not there answered")
    try:
        client.models.retrieve("org/nobody:lora")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    try:
        client.chat.completions.create(**CHAT | {"temperature": 9})
    except openai.BadRequestError as error:
        assert error.param == "temperature"
    else:
        raise AssertionError("a temperature of 9 was taken")


def batch(client: openai.OpenAI) -> None:
    """A file becomes a batch, and the batch becomes files."""
    body = CHAT | {"max_tokens": 4}
    lines = [
        {"custom_id": f"{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for i in range(3)
    ]
    text = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("asked.jsonl", io.BytesIO(text)), purpose="batch")
    parts = client.uploads.upload_file_chunked(
        file=text, filename="parts.jsonl", bytes=len(text), mime_type="text/jsonl", purpose="batch"
    )
    assert (parts.status, parts.file.bytes) == ("completed", len(text))
    assert client.files.content(file.id).read() == text
    started = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    deadline = time.monotonic() + 60
    while (now := client.batches.retrieve(started.id)).status != "completed":
        assert now.status in {"validating", "in_progress", "finalizing"}, now
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    assert (now.request_counts.total, now.request_counts.completed) == (3, 3)
    answers = client.files.content(now.output_file_id).text.splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in answers) == ["0", "1", "2"]
    assert file.id in [one.id for one in client.files.list(limit=1)]  # page by page, to the end
    assert started.id in [one.id for one in client.batches.list(limit=1)]
    assert client.files.delete(file.id).deleted


if __name__ == "__main__":
    main()
