"""`python -m mnemos.engram make-buckets NAME…`: makes the buckets that are not there, and ends.

The storage is named by MNEMOS_ENGRAM_URL (s3:// unless given), MNEMOS_ENGRAM_ENDPOINT,
MNEMOS_ENGRAM_ACCESS_KEY and MNEMOS_ENGRAM_SECRET_KEY. Exit status: 0, 1 where the storage refuses,
64 for other words.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from pydantic import SecretStr

from .errors import EngramError
from .store import ObjectStore

EX_USAGE = 64


def main() -> int:
    """Make the buckets; return the exit status."""
    match sys.argv[1:]:
        case ["make-buckets", *names] if names:
            return _make(names)
    return _fail("the only command is make-buckets, and it takes names", EX_USAGE)


def _make(names: Sequence[str]) -> int:
    try:
        asyncio.run(make_buckets(_store(), names))
    except EngramError as error:
        return _fail(error.message, 1)
    sys.stdout.write(f"engram: {', '.join(names)}: there\n")
    return 0


async def make_buckets(store: ObjectStore, names: Sequence[str]) -> None:
    """Make each bucket unless it is there. Raises EngramError."""
    for name in names:
        await store.ensure_bucket(name)


def _store() -> ObjectStore:
    endpoint = os.environ.get("MNEMOS_ENGRAM_ENDPOINT")
    secret = os.environ.get("MNEMOS_ENGRAM_SECRET_KEY")
    return ObjectStore.from_url(
        os.environ.get("MNEMOS_ENGRAM_URL") or "s3://",
        endpoint=endpoint,
        access_key=os.environ.get("MNEMOS_ENGRAM_ACCESS_KEY"),
        secret_key=SecretStr(secret) if secret else None,
        secure=bool(endpoint and endpoint.startswith("https://")),
    )


def _fail(sentence: str, status: int) -> int:
    sys.stderr.write(f"engram: {sentence}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
