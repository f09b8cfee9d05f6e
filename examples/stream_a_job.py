"""Submit a job over HTTP and print its tokens as they come: the standard library is enough.

python examples/stream_a_job.py "Why is the sky blue?"
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

CORTEX = os.environ.get("MNEMOS_CORTEX_URL", "http://127.0.0.1:8080")
FAMILY, _, VERSION = os.environ.get("MNEMOS_MODEL", "smollm2").partition(":")
HEADERS = {
    "content-type": "application/json",
    "authorization": f"Bearer {os.environ.get('MNEMOS_API_KEY', 'unused')}",
}


def submit(question: str) -> str:
    """Submit a question; give back the job's id. It is durable when this returns."""
    job = {
        "model": {"family": FAMILY} | ({"version": VERSION} if VERSION else {}),
        "input": {
            "messages": [{"role": "user", "content": question}],
            "parameters": {"max_tokens": 80, "stream": True},
        },
    }
    request = urllib.request.Request(  # noqa: S310 - the operator's own address
        f"{CORTEX}/api/v1/jobs",
        data=json.dumps(job).encode(),
        headers=HEADERS,
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - as above
        return str(json.load(response)["job_id"])


def events(job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The job's server-sent events, from its beginning to its end."""
    kind = "message"
    url = f"{CORTEX}/api/v1/jobs/{job_id}/stream"
    request = urllib.request.Request(url, headers=HEADERS)  # noqa: S310 - as above
    with urllib.request.urlopen(request, timeout=60) as stream:  # noqa: S310 - as above
        for raw in stream:
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


def main() -> int:
    """Ask, print, and exit with 0 when the job completed."""
    question = " ".join(sys.argv[1:]) or "Why is the sky blue?"
    for kind, data in events(submit(question)):
        if kind == "token":
            sys.stdout.write(data["content"])
            sys.stdout.flush()
        elif kind == "end":
            sys.stdout.write("\n")
            return 0 if data["status"] == "completed" else 1
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
