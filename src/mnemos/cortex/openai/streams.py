"""Answers that are read while they are drawn, as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse

from mnemos.http import ApiError

from ..api.following import follow
from ..api.views import encode
from ..errors import CortexError
from ..records import EventRecord
from .answers import usage
from .asking import STOPPING, Answer, Asked
from .errors import error_body

DONE = b"data: [DONE]\n\n"
_KEEP_ALIVE = b": keep-alive\n\n"
_NOT_BUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Piece = Callable[[int, str], list[dict[str, Any]]]
"""What some more text of a choice brings, each a choice of its own event."""
Last = Callable[[int, Answer], list[dict[str, Any]]]
"""The same of a choice's end."""


class SpoiltError(Exception):
    """What was already sent is no part of the answer."""


class SentText:
    """How much of one answer the client has.

    An attempt that begins again says the same once more, if it says the same: then nothing of it
    is sent twice. If it says something else, what was sent cannot be taken back.
    """

    def __init__(self) -> None:
        self._sent = ""
        self._again = 0

    def begin_again(self) -> None:
        """The text that comes now is that of a new attempt, from its beginning."""
        self._again = 0

    def take(self, content: str) -> str:
        """Return what of it is new. Raises SpoiltError."""
        known = self._sent[self._again : self._again + len(content)]
        if not content.startswith(known):
            raise SpoiltError
        self._again += len(content)
        new = content[len(known) :]
        self._sent += new
        return new

    def rest(self, whole: str) -> str:
        """Return what of the whole answer was not sent. Raises SpoiltError."""
        if not whole.startswith(self._sent):
            raise SpoiltError
        return whole[len(self._sent) :]


class AnswerStream:
    """The events of one request's answers, of which a client has seen the beginning at most.

    It ends with [DONE], or with an event that holds an error: a stream that just stops would look
    to OpenAI's clients like an answer that is whole.
    """

    def __init__(
        self,
        asked: Asked,
        head: dict[str, Any],
        piece: Piece,
        last: Last,
        *,
        with_usage: bool,
        choices: int,
    ) -> None:
        self._asked = asked
        self._head = head
        self._piece = piece
        self._last = last
        self._with_usage = with_usage
        self._choices = choices
        self._texts = [SentText() for _ in asked.job_ids]

    def response(self) -> StreamingResponse:
        """The HTTP answer."""
        return StreamingResponse(
            self._events(), media_type="text/event-stream", headers=_NOT_BUFFERED
        )

    async def _events(self) -> AsyncGenerator[bytes, None]:
        try:
            async for event in self._told():
                yield event
        except SpoiltError:
            message = "The answer was begun again and came out differently; ask once more."
            yield _error(500, "restarted", message)
        except ApiError as error:
            yield _error(error.status_code, error.code, error.message)
        except CortexError as error:
            yield _error(503, error.code, error.message)
        finally:
            self._asked.leave()

    async def _told(self) -> AsyncGenerator[bytes, None]:
        asked = self._asked
        async with aclosing(follow(asked.cortex, asked.job_ids)) as pages:
            async for index, events in pages:
                if not events:
                    yield _KEEP_ALIVE
                elif text := self._new_text(index, events):
                    yield self._event(self._piece(index, text))
        if asked.cortex.notifier.closed:
            yield _error(503, "unavailable", STOPPING)
            return
        answers = []
        for index, sent in enumerate(self._texts):
            answers.append(await asked.answer(index))
            if rest := sent.rest(answers[-1].result):
                yield self._event(self._piece(index, rest))
            yield self._event(self._last(index, answers[-1]))
        if self._with_usage:
            counted = usage(answers, self._choices)
            yield _data(self._head | {"choices": [], "usage": counted})
        yield DONE

    def _event(self, choices: Sequence[dict[str, Any]]) -> bytes:
        """An event for each of the choices."""
        return b"".join(_data(self._head | {"choices": [choice]}) for choice in choices)

    def _new_text(self, index: int, events: Sequence[EventRecord]) -> str:
        text = self._texts[index]
        new = []
        for event in events:
            if event.kind == "token":
                new.append(text.take(json.loads(event.data)["content"]))
            elif event.kind == "restart":
                text.begin_again()
        return "".join(new)


def _data(content: dict[str, Any]) -> bytes:
    return b"data: " + encode(content) + b"\n\n"


def _error(status: int, code: str, message: str) -> bytes:
    return _data(error_body(status, code, message))
