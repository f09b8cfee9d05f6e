"""The file of answers: appended to, repaired after a crash, written by one run at a time."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Self

import msgspec

from ..errors import CliError, Conflict, UsageFault


class _Written(msgspec.Struct):
    id: str
    status: str


class AnswersFile:
    """OUT.jsonl, opened for appending; `done` holds the ids that are in it.

    Blocking: call it from a thread. Safe to close while another thread writes: closing waits.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[str] = set()
        self.failed = 0
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None

    def open(self) -> Self:
        """Lock the file, mend a torn last line and read the ids that are there.

        Raises Conflict when another run writes it, or when a line is not an answer, and
        UsageFault for what is there and is no file.
        """
        if str(self.path) == "-" or (self.path.exists() and not self.path.is_file()):
            raise UsageFault(
                f"{self.path} is no file: answers that can be continued need one.",
                hint="write it like -o answers.jsonl",
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            self._claim(self._file)
            self._repair(self._file)
            self._read_ids(self._file)
        except BaseException:
            self.close()
            raise
        return self

    def _claim(self, file: IO[bytes]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"Another run is writing {self.path}.",
                code="in_use",
                hint="let it end, stop it, or choose another -o",
            ) from error

    def _repair(self, file: IO[bytes]) -> None:
        """Cut off what a killed run left of its last line."""
        end = file.seek(0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position != end:
            file.truncate(position)

    def _read_ids(self, file: IO[bytes]) -> None:
        decoder = msgspec.json.Decoder(_Written)
        file.seek(0)
        for number, line in enumerate(file, start=1):
            try:
                written = decoder.decode(line)
            except msgspec.DecodeError as error:
                raise Conflict(
                    f"Line {number} of {self.path} is not an answer that a run has written.",
                    hint="choose another -o, or delete it and start over with --restart",
                ) from error
            self.done.add(written.id)
            self.failed += written.status != "completed"

    def append(self, answers: Iterable[dict[str, Any]]) -> int:
        """Write answers whose ids are new and flush them; says how many were written."""
        written = 0
        with self._lock:
            if self._file is None:
                return 0
            try:
                for answer in answers:
                    if answer["id"] in self.done:
                        continue
                    self._file.write(msgspec.json.encode(answer) + b"\n")
                    self.done.add(answer["id"])
                    self.failed += answer["status"] != "completed"
                    written += 1
                self._file.flush()
            except OSError as error:
                raise self._cannot_write(error) from error
        return written

    def sync(self) -> None:
        """Make everything written so far survive a power cut."""
        with self._lock:
            if self._file is not None:
                try:
                    os.fsync(self._file.fileno())
                except OSError as error:
                    raise self._cannot_write(error) from error

    def drop_failed(self) -> int:
        """Forget every answer that is none, so that its line is asked again; says how many.

        The file is replaced by a new one: a crash leaves the one or the other.
        """
        with self._lock:
            assert self._file is not None
            staging = self.path.with_name(self.path.name + ".new")
            try:
                kept = staging.open("w+b")
                self._claim(kept)
                self._file.seek(0)
                for line in self._file:
                    written = msgspec.json.decode(line, type=_Written)
                    if written.status == "completed":
                        kept.write(line)
                    else:
                        self.done.discard(written.id)
                kept.flush()
                os.fsync(kept.fileno())
                staging.replace(self.path)
            except OSError as error:
                raise self._cannot_write(error) from error
            self._file.close()
            self._file = kept
            dropped, self.failed = self.failed, 0
            return dropped

    def clear(self) -> None:
        """Forget every answer."""
        with self._lock:
            assert self._file is not None
            self._file.truncate(0)
            self.done.clear()
            self.failed = 0

    def close(self) -> None:
        """Close and unlock. Idempotent."""
        with self._lock:
            if self._file is not None:
                file, self._file = self._file, None
                try:
                    file.close()
                except OSError as error:
                    raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> CliError:
        return CliError(
            f"Cannot write {self.path}: {error.strerror or error}.",
            code="os_error",
            hint="what is written is kept; the same command continues once there is room",
        )
