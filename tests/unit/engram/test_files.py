"""Files that appear whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mnemos.engram.errors import LocalDiskError
from mnemos.engram.files import CHUNK_BYTES, AtomicFile, FileReader, write_atomically


async def three_chunks() -> AsyncIterator[bytes]:
    for chunk in (b"one", b"two", b"three"):
        yield chunk


async def breaking() -> AsyncIterator[bytes]:
    yield b"one"
    raise ConnectionError("gone")


async def test_what_is_written_is_told_and_there(tmp_path: Path) -> None:
    done = await write_atomically(tmp_path / "a" / "b", three_chunks())
    assert (tmp_path / "a" / "b").read_bytes() == b"onetwothree"
    assert (done.size, done.sha256) == (11, hashlib.sha256(b"onetwothree").hexdigest())


async def test_a_source_that_breaks_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "f"
    await write_atomically(target, three_chunks())
    with pytest.raises(ConnectionError):
        await write_atomically(target, breaking())
    assert [path.name for path in tmp_path.iterdir()] == ["f"]  # noqa: ASYNC240 - a tiny folder
    assert target.read_bytes() == b"onetwothree"


def test_nothing_shows_before_the_commit_and_nothing_is_left_by_a_discard(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "f")
    file.write(b"x")
    assert not (tmp_path / "f").exists()
    file.discard()
    file.discard()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="discarded"):
        file.write(b"y")
    with pytest.raises(OSError, match="discarded"):
        file.commit()
    assert list(tmp_path.iterdir()) == []


def test_a_discard_after_the_commit_takes_nothing_away(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "f")
    file.commit()
    file.discard()
    assert (tmp_path / "f").read_bytes() == b""


async def test_a_reader_that_is_closed_early_never_looks_finished(tmp_path: Path) -> None:
    path = tmp_path / "big"
    await asyncio.to_thread(path.write_bytes, b"x" * (CHUNK_BYTES + 1))
    reader = FileReader(path)
    assert len(await anext(reader)) == CHUNK_BYTES
    await reader.aclose()
    await reader.aclose()
    with pytest.raises(LocalDiskError, match="closed before its end"):
        await anext(reader)
