"""MNEMOS's own client: map over any number of prompts, answers as they come.

    python examples/map_prompts.py 200

Stop it (Ctrl-C), kill it, restart CORTEX: run it again, and it goes on where it stopped, because
the run has a name. MNEMOS_CORTEX_URL, MNEMOS_API_KEY and MNEMOS_MODEL are heeded.
"""

from __future__ import annotations

import os
import sys

from mnemos import Client

MODEL = os.environ.get("MNEMOS_MODEL", "smollm2:135m-instruct")


def main() -> int:
    """Ask, print each answer, and exit with 0 when all are there."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    failed = 0
    questions = (f"What is {number} plus {number}?" for number in range(count))
    with Client() as client:
        for answer in client.map(
            questions,
            model=MODEL,
            run_id=f"sums-of-{count}",
            max_tokens=16,
            temperature=0,
            progress=True,
            total=count,
        ):
            if answer.ok:
                print(f"{answer.item} {answer.value!r}")
            else:
                failed += 1
                print(f"{answer.item} {answer.error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
