"""OpenAI's own Python client: an answer at once, and an answer token by token.

    pip install openai
    python examples/openai_chat.py "Why is the sky blue?"

MNEMOS_CORTEX_URL says where CORTEX is (http://127.0.0.1:8080), MNEMOS_MODEL which model answers,
MNEMOS_API_KEY who asks, where CORTEX wants keys.
"""

from __future__ import annotations

import os
import sys

from openai import OpenAI

CORTEX = os.environ.get("MNEMOS_CORTEX_URL", "http://127.0.0.1:8080")
MODEL = os.environ.get("MNEMOS_MODEL", "smollm2:135m-instruct")


def main() -> None:
    """Ask twice; print the answer whole, then as it is drawn."""
    question = " ".join(sys.argv[1:]) or "Why is the sky blue?"
    key = os.environ.get("MNEMOS_API_KEY", "unused")
    with OpenAI(base_url=f"{CORTEX}/v1", api_key=key) as client:
        whole = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            max_tokens=60,
            temperature=0,
        )
        print(whole.choices[0].message.content)
        print("---")
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            max_tokens=60,
            temperature=0,
            stream=True,
        )
        for chunk in stream:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
