"""langchain-openai: invoke, stream, batch, structured output, embeddings."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Literal

from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

MODEL = os.environ["MODEL"]


class City(BaseModel):
    """What an answer is parsed into."""

    name: Literal["Paris", "Rome"]
    large: bool


def main() -> None:
    """Use it all."""
    chat = ChatOpenAI(model=MODEL, temperature=0, max_tokens=20, max_retries=0)
    whole = chat.invoke("Where is Paris?")
    assert whole.usage_metadata["output_tokens"] == 20
    pieces = list(chat.stream("Where is Paris?", stream_usage=True))
    assert "".join(piece.content for piece in pieces) == whole.content
    assert sum((piece.usage_metadata or {}).get("output_tokens", 0) for piece in pieces) == 20
    several = chat.batch(["Where is Paris?"] * 4)
    assert {answer.content for answer in several} == {whole.content}
    free = ChatOpenAI(model=MODEL, temperature=0, max_retries=0)
    city = free.with_structured_output(City, method="json_schema").invoke("Where is Paris?")
    assert isinstance(city, City)
    assert OpenAI(model=MODEL, max_tokens=3, max_retries=0).invoke("One")
    # Without the switch it sends numbers of OpenAI's own tokens, not texts.
    reader = OpenAIEmbeddings(model=os.environ["EMBEDDING_MODEL"], check_embedding_ctx_length=False)
    one, two = reader.embed_documents(["One", "Two"])
    assert len(reader.embed_query("One")) == len(one) == len(two)
    print("langchain-openai", version("langchain-openai"))


if __name__ == "__main__":
    main()
