"""One fetch: its threads, what each of them does, and their common end."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from ..errors import DamagedObjectError, LocalDiskError, StorageUnavailableError
from ..files import OnBytes, local_disk_error
from .board import Board
from .limits import Limits
from .source import Interrupted, Link, Source, WholeOnly
from .target import Part, Target
from .wanted import WantedFile
from .width import Width, first_width, processors, rate_of


class Fetching:
    """Fetches files in threads that all end before `run()` does. Used once."""

    def __init__(
        self,
        source: Source,
        files: Sequence[WantedFile],
        on_bytes: OnBytes | None,
        connections: int,
        limits: Limits,
    ) -> None:
        distinct = {file.path: file for file in files}.values()
        # Largest first: what is hashed byte after byte then ends with the others, not after them.
        ordered = sorted(distinct, key=lambda file: file.size, reverse=True)
        self._targets = [Target(file, limits, on_bytes) for file in ordered]
        self._source = source
        self._connections = connections
        self._limits = limits
        self._lock = threading.Lock()
        self._links: list[Link] = []
        self._board: Board | None = None
        self._stopped = False

    def run(self) -> None:
        """Bring all files, or raise the first error; unfinished files stay. Blocks."""
        # First of all: a size beyond belief would make parts beyond count.
        self._check_space()
        try:
            for target in self._targets:
                if self._stopped:
                    return
                target.prepare()
            board = Board(self._targets, first_width(self._connections))
            with self._lock:
                self._board = board
            if not self._stopped:
                self._work(board)
        finally:
            for target in self._targets:
                target.close()
        if board.error is not None:
            raise board.error

    def stop(self) -> None:
        """Make `run()` return soon. For any thread."""
        with self._lock:
            self._stopped = True
            board, links = self._board, list(self._links)
        if board is not None:
            board.stop()
        for link in links:
            link.abort()

    def _work(self, board: Board) -> None:
        parts = sum(1 for target in self._targets for part in target.parts)
        fetchers = max(1, min(self._connections, parts))
        follower_count = sum(1 for target in self._targets if not target.is_hashed_by_writer)
        hashers = min(self._limits.hashers, processors(), follower_count)
        duties: list[Callable[[Board], None]] = [
            partial(self._fetch_parts, number) for number in range(fetchers)
        ]
        duties += [self._hash_files] * hashers
        duties += [self._sync_files, self._allocate, Width(fetchers, rate_of(self._told_bytes)).run]
        with ThreadPoolExecutor(len(duties), thread_name_prefix="fetch") as threads:
            for duty in duties:
                threads.submit(self._guarded, duty, board)

    def _guarded(self, duty: Callable[[Board], None], board: Board) -> None:
        try:
            duty(board)
        except BaseException as error:  # noqa: BLE001 - the fetch raises it
            board.fail(error)
            self.stop()

    def _told_bytes(self) -> int:
        return sum(target.told_bytes for target in self._targets)

    def _fetch_parts(self, number: int, board: Board) -> None:
        link = self._source.link()
        with self._lock:
            self._links.append(link)
        with closing(link):
            while (part := board.take_part(number)) is not None:
                self._fetch(board, link, part)

    def _fetch(self, board: Board, link: Link, part: Part) -> None:
        part.target.open()
        tries = 0
        doubted = False
        while not board.stopping and board.is_current(part):
            before = part.done
            try:
                link.fetch(part)
            except WholeOnly:
                whole = board.take_whole(part)
                if whole is None:
                    return
                part = whole
            except DamagedObjectError:
                # A store that is pressed may say something strange once.
                if doubted:
                    raise
                doubted = True
                board.pause(self._limits.first_pause_seconds)
            except Interrupted as interruption:
                tries = 1 if part.done > before else tries + 1
                if tries > self._limits.tries and not board.stopping:
                    raise self._unavailable(part, interruption) from interruption
                board.pause(self._pause_seconds(tries, interruption))
            else:
                self._end(board, part)
                return

    def _end(self, board: Board, part: Part) -> None:
        board.part_ended(part)
        if part.digest is not None:
            part.target.settle(part.digest.hexdigest())
            board.settled()

    def _unavailable(self, part: Part, last: Interrupted) -> StorageUnavailableError:
        return StorageUnavailableError(
            f"{self._source.where} does not bring {part.target.wanted.key}: {last.message}."
        )

    def _pause_seconds(self, tries: int, interruption: Interrupted) -> float:
        limits = self._limits
        longest = min(limits.first_pause_seconds * 2.0 ** (tries - 1), limits.longest_pause_seconds)
        asked = min(interruption.after_seconds, limits.longest_asked_pause_seconds)
        # Jitter, so that sixteen connections do not come back at once.
        return asked + longest * random.uniform(0.5, 1.0)  # noqa: S311

    def _hash_files(self, board: Board) -> None:
        buffer = memoryview(bytearray(self._limits.buffer_bytes))
        while (target := board.take_file()) is not None:
            target.open()
            while (sha256 := self._follow(board, target, buffer)) is not None:
                if target.settle(sha256):
                    board.settled()
                    break
                board.restart(target)

    def _follow(self, board: Board, target: Target, buffer: memoryview) -> str | None:
        """Hash a file behind the writing; None at a stop."""
        digest, position, generation = hashlib.sha256(), 0, target.generation
        while position < target.wanted.size:
            prefix = board.await_prefix(target, generation, position)
            if prefix is None:
                return None
            now, end = prefix
            if now != generation:
                digest, position, generation = hashlib.sha256(), 0, now
            while position < end and not board.stopping:
                count = target.read(buffer[: end - position], position)
                digest.update(buffer[:count])
                position += count
        return None if board.stopping else digest.hexdigest()

    def _sync_files(self, board: Board) -> None:
        while (target := board.take_unsynced()) is not None:
            target.sync()

    def _allocate(self, board: Board) -> None:
        for target in self._targets:
            if board.stopping:
                return
            target.allocate(board.is_stopping)

    def _check_space(self) -> None:
        """A disk that cannot hold it all says so before the first byte. Raises LocalDiskError."""
        missing: dict[Path, int] = {}
        for target in self._targets:
            folder = target.path.parent
            missing[folder] = missing.get(folder, 0) + target.missing_bytes()
        for folder, count in missing.items():
            try:
                status = os.statvfs(folder)
            except OSError as error:
                raise local_disk_error("write to", folder, error) from error
            free = status.f_bavail * status.f_frsize
            if count > free:
                raise LocalDiskError(
                    f"Cannot write to {folder}: {count} bytes are to come and {free} are free.",
                    errno.ENOSPC,
                )
