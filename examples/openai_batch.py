"""The Batch API by OpenAI's own Python client: a file of 1,000 requests, and their answers.

    pip install openai
    python examples/openai_batch.py           # or another number: openai_batch.py 50

Each line becomes a job of its own. Stop the program when you like: the batch goes on, and any
program finds it again by its id. The environment is that of openai_chat.py.
"""

from __future__ import annotations

import json
import os
import sys
import time

from openai import OpenAI
from openai.types import Batch

CORTEX = os.environ.get("MNEMOS_CORTEX_URL", "http://127.0.0.1:8080")
MODEL = os.environ.get("MNEMOS_MODEL", "smollm2:135m-instruct")
ENDED = ("completed", "failed", "expired", "cancelled")


def request_line(number: int) -> bytes:
    """One request; `custom_id` is what its answer is found by."""
    question = f"What is {number} plus {number}?"
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 16,
        "temperature": 0,
    }
    line = {"custom_id": f"sum-{number}", "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps({**line, "body": body}).encode() + b"\n"


def wait(client: OpenAI, batch: Batch) -> Batch:
    """Look at it until it has ended."""
    while batch.status not in ENDED:
        counts = batch.request_counts
        print(batch.status, counts.completed if counts else 0, "answered", file=sys.stderr)
        time.sleep(0.5)
        batch = client.batches.retrieve(batch.id)
    return batch


def main() -> int:
    """Submit a batch, wait for it, print its answers."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    key = os.environ.get("MNEMOS_API_KEY", "unused")
    with OpenAI(base_url=f"{CORTEX}/v1", api_key=key) as client:
        content = b"".join(map(request_line, range(count)))
        file = client.files.create(file=("sums.jsonl", content), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        batch = wait(client, batch)
        if batch.output_file_id:
            for line in client.files.content(batch.output_file_id).text.splitlines():
                answer = json.loads(line)
                message = answer["response"]["body"]["choices"][0]["message"]["content"]
                print(f"{answer['custom_id']}: {message!r}")
    return 0 if batch.status == "completed" else 1


if __name__ == "__main__":
    raise SystemExit(main())
