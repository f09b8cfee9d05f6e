"""CORTEX's side of checking inputs: a few processes, started when they are needed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from ..errors import CortexError

CPU_SECONDS = 3.0
"""The most that a check may take, and as much again for each MiB: 100,000 rows take 2 s."""
WAIT_SECONDS = 30.0
"""A check that has not come to its end by then is given up, with whatever it waits for."""
PROCESSES = 2
MOST_SLOW = 256
TOO_SLOW = "takes too long to check"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class InputSchema:
    """A model's input schema: compact JSON, and a digest that tells it from others."""

    text: str
    digest: str

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> InputSchema:
        """Write a schema down."""
        text = json.dumps(schema, separators=(",", ":"))
        return cls(text, hashlib.sha256(text.encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class InputFault:
    """Where an input disagrees with its schema, as an RFC 6901 pointer, and what was expected."""

    pointer: str
    expected: str


class SchemaUnusableError(CortexError):
    """Nothing can be checked with the schema; the message is a sentence's end about it."""

    code = "invalid_input"


class CheckTooSlowError(CortexError):
    """Checking takes longer than it may; the message is a sentence's end about the input."""

    code = "invalid_input"


class CheckUnavailableError(CortexError):
    """Too much is being checked now."""

    code = "unavailable"


class InputChecker:
    """Checks inputs in processes of its own; `close()` ends them.

    A check that is cancelled, or takes too long, costs its process; the next one starts another.
    """

    def __init__(
        self,
        *,
        processes: int = PROCESSES,
        cpu_seconds: float = CPU_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._places = asyncio.Semaphore(processes)
        self._cpu_seconds = cpu_seconds
        self._wait_seconds = wait_seconds
        self._idle: list[Process] = []
        self._slow: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    async def check(
        self, schema: InputSchema, given: str, *, tensors: bool = False, scored: bool = False
    ) -> InputFault | None:
        """Return what is wrong with a job's input, which is JSON text without line breaks.

        Raises SchemaUnusableError, CheckTooSlowError, CheckUnavailableError.
        """
        how = json.dumps({"digest": schema.digest, "tensors": tensors, "scored": scored})
        question = f"{how}\n{schema.text}\n{given}\n".encode()
        key = (schema.digest, hashlib.sha256(question).digest())
        if key in self._slow:
            raise CheckTooSlowError(TOO_SLOW)
        answer = await self._answer(question, key)
        if answer is None:
            return None
        if "unusable" in answer:
            raise SchemaUnusableError(answer["unusable"])
        return InputFault(**answer)

    async def close(self) -> None:
        """End the processes; nothing may be asked meanwhile."""
        while self._idle:
            await _end(self._idle.pop())

    async def _answer(self, question: bytes, key: tuple[str, bytes]) -> Any:
        try:
            async with asyncio.timeout(self._wait_seconds), self._places:
                return await self._ask(question)
        except TimeoutError as error:
            raise CheckUnavailableError("Too many inputs are being checked now.") from error
        except CheckTooSlowError:
            self._slow[key] = None
            if len(self._slow) > MOST_SLOW:
                self._slow.popitem(last=False)
            raise

    async def _ask(self, question: bytes) -> Any:
        while True:
            is_new = not self._idle
            process = await self._start() if is_new else self._idle.pop()
            answer = await _exchange(process, question)
            if answer:
                self._idle.append(process)
                return json.loads(answer)
            code = await process.wait()
            if code == -signal.SIGPROF:
                raise CheckTooSlowError(TOO_SLOW)
            _log.warning("input_check.process_lost", exit_code=code)
            if is_new:
                raise CheckUnavailableError("The input could not be checked.")

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", f"{__package__}.process", str(self._cpu_seconds)),
            stdin=PIPE,
            stdout=PIPE,
        )


async def _exchange(process: Process, question: bytes) -> bytes:
    """Ask, and return the answer: nothing if the process ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdin.is_closing():
        return b""
    try:
        process.stdin.write(question)
        await process.stdin.drain()
        return await process.stdout.readline()
    except (BrokenPipeError, ConnectionResetError):
        return b""
    except BaseException:
        await _end(process)
        raise


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()
