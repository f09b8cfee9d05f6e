"""LangChain: a chain of a prompt, a model behind CORTEX, and a parser; whole and streamed.

    pip install langchain-openai
    python examples/langchain_chat.py "the sea"

The environment is that of openai_chat.py.
"""

from __future__ import annotations

import os
import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

CORTEX = os.environ.get("MNEMOS_CORTEX_URL", "http://127.0.0.1:8080")
MODEL = os.environ.get("MNEMOS_MODEL", "smollm2:135m-instruct")


def main() -> None:
    """Tell of one thing whole and token by token, then of three side by side."""
    model = ChatOpenAI(
        base_url=f"{CORTEX}/v1",
        api_key=os.environ.get("MNEMOS_API_KEY", "unused"),
        model=MODEL,
        max_tokens=40,
        temperature=0,
    )
    prompt = ChatPromptTemplate.from_template("Tell me one fact about {thing}.")
    chain = prompt | model | StrOutputParser()
    thing = " ".join(sys.argv[1:]) or "the sea"
    print(chain.invoke({"thing": thing}))
    print("---")
    for piece in chain.stream({"thing": thing}):
        print(piece, end="", flush=True)
    print("\n---")
    for fact in chain.batch([{"thing": each} for each in ("the sun", "the moon", "the wind")]):
        print(repr(fact))


if __name__ == "__main__":
    main()
