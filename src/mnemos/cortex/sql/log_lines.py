"""Lines of a job's log as text. They are many and all alike, so they are not made by a library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

from ..lease_core import RestartLine, StateLine
from ..records import Chunk
from ..state_machine import JobState

_quoted = lru_cache(maxsize=4096)(json.dumps)
_STARTS: Mapping[JobState, str] = {
    state: f'{{"status":"{state.value}","attempt":' for state in JobState
}

CREATED = f'{_STARTS[JobState.PENDING]}0,"worker_id":null}}'
"""The first line of every log."""


def line_text(line: StateLine | RestartLine) -> tuple[str, str]:
    """The kind and the data of a line that lease_core told."""
    if isinstance(line, RestartLine):
        return "restart", restart_text(line.attempt, line.reason)
    worker = "null" if line.worker_id is None else _quoted(line.worker_id)
    message = f',"message":{json.dumps(line.message)}' if line.message else ""
    return "state", f'{_STARTS[line.state]}{line.attempt},"worker_id":{worker}{message}}}'


def restart_text(attempt: int, reason: str) -> str:
    """The data of a line that says that the text before it is void."""
    return f'{{"attempt":{attempt},"reason":{json.dumps(reason)}}}'


def token_text(chunk: Chunk) -> str:
    """The data of a line of tokens."""
    tokens = ",".join(map(str, chunk.token_ids))
    content = json.dumps(chunk.content)
    return f'{{"content":{content},"token_ids":[{tokens}],"attempt":{chunk.attempt}}}'
