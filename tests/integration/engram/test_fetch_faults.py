"""What stores and lines do wrong, one by one, to a server that does it on purpose."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fetch_tools import (
    BUCKET,
    BUFFER,
    KIB,
    PART,
    PATIENT,
    QUICK,
    asked,
    check_arrived,
    check_no_threads,
    fetch_one,
    random_bytes,
    store_on,
    wanted,
)
from object_server import Fault, ObjectServer

from mnemos.engram.errors import (
    AccessDeniedError,
    DamagedObjectError,
    ObjectNotFoundError,
    StorageUnavailableError,
)
from mnemos.engram.fetch import fetch_files, journal_path
from mnemos.engram.store import ObjectStore

ONE_PART = random_bytes(PART - 7)
PARTS = random_bytes(5 * PART + 17)
PASSING = {
    "cut in the body": Fault(cut_after=100 * KIB),
    "cut before the body": Fault(cut_after=0),
    "reset": Fault(cut_after=30 * KIB, reset=True),
    "silent": Fault(hang_after=10 * KIB),
    "silent from the start": Fault(hang_after=0),
    "500": Fault(status=500, body=b"<Error><Code>InternalError</Code></Error>"),
    "SlowDown": Fault(status=503, headers={"Retry-After": "0"}, body=b"<Code>SlowDown</Code>"),
    "429 without a body": Fault(status=429),
    "a range that was not asked for": Fault(content_range=f"bytes 3-9/{len(PARTS)}"),
    "no range at all": Fault(content_range="none"),
    "closes what it said it would keep": Fault(close=True),
    "chunked": Fault(chunked=True),
    "chunked and cut": Fault(chunked=True, cut_after=70 * KIB),
}


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with ObjectServer() as running:
        yield running


@pytest.mark.parametrize("data", [ONE_PART, PARTS], ids=["one part", "parts"])
@pytest.mark.parametrize("name", PASSING)
async def test_what_passes_is_got_over(
    server: ObjectServer, tmp_path: Path, name: str, data: bytes
) -> None:
    fault = PASSING[name]
    if len(data) < PART and fault.content_range:
        pytest.skip("a file of one part is asked for without a range")
    server.faults.extend([fault, fault, Fault(), fault])

    await fetch_one(server, data, tmp_path)

    assert server.sent_bytes <= len(data) + 3 * PART
    check_no_threads()


@pytest.mark.parametrize("data", [ONE_PART, PARTS], ids=["one part", "parts"])
async def test_after_each_cut_it_goes_on_at_the_byte_where_it_stopped(
    server: ObjectServer, tmp_path: Path, data: bytes
) -> None:
    """More cuts than a fetch has tries: what brings bytes does not count as failed."""
    server.always = Fault(cut_after=PART // 12)

    await fetch_one(server, data, tmp_path)

    assert server.sent_bytes == len(data)


async def test_a_store_that_knows_no_ranges(server: ObjectServer, tmp_path: Path) -> None:
    server.always = Fault(ignore_range=True)
    await fetch_one(server, PARTS, tmp_path)
    server.faults.append(Fault(ignore_range=True, cut_after=PART))
    await fetch_one(server, random_bytes(4 * PART, 2), tmp_path)
    server.faults.extend([Fault(ignore_range=True, cut_after=PART // 2)] * 2)
    await fetch_one(server, random_bytes(PART, 3), tmp_path)
    server.always = Fault(ignore_range=True, chunked=True)
    await fetch_one(server, random_bytes(4 * PART, 4), tmp_path)


async def test_connections_are_kept(server: ObjectServer, tmp_path: Path) -> None:
    await fetch_one(server, random_bytes(20 * PART), tmp_path, connections=3)

    assert len(server.seen) == 20
    assert server.connections == 3
    assert server.seen[0].headers["If-Match"] is None
    assert server.seen[-1].headers["If-Match"] is not None


async def test_a_store_that_stays_broken_is_given_up(server: ObjectServer, tmp_path: Path) -> None:
    server.put(BUCKET, "m/a", PARTS)
    file = wanted("m/a", PARTS, tmp_path)
    server.faults.append(Fault())
    server.always = Fault(status=503, headers={"Retry-After": "0"})

    with pytest.raises(StorageUnavailableError, match=r"m/a.*503"):
        await fetch_files(store_on(server), BUCKET, [file], connections=1, limits=QUICK)

    assert len(server.seen) == 1 + 1 + QUICK.tries
    assert journal_path(file.path).exists()
    server.always = None
    await fetch_files(store_on(server), BUCKET, [file], connections=1, limits=QUICK)
    check_arrived(file, PARTS)
    assert server.sent_bytes == len(PARTS), "the first part came once"


async def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    store = ObjectStore.from_url("s3://", endpoint=f"http://127.0.0.1:{port}")

    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        await fetch_files(store, BUCKET, [wanted("m/a", PARTS, tmp_path)], limits=QUICK)


REFUSALS = {
    404: (b"<Code>NoSuchKey</Code>", ObjectNotFoundError),
    403: (b"<Code>SignatureDoesNotMatch</Code>", AccessDeniedError),
    412: (b"", DamagedObjectError),
    400: (b"<Code>Strange</Code><Message>no idea</Message>", StorageUnavailableError),
}


@pytest.mark.parametrize("status", REFUSALS)
async def test_what_does_not_pass_ends_it_at_once(
    server: ObjectServer, tmp_path: Path, status: int
) -> None:
    body, error = REFUSALS[status]
    server.put(BUCKET, "m/a", PARTS)
    server.always = Fault(status=status, body=body)

    with pytest.raises(error):
        await fetch_files(
            store_on(server), BUCKET, [wanted("m/a", PARTS, tmp_path)], connections=2, limits=QUICK
        )

    # That an object is another is believed when it is said twice.
    assert len(server.seen) <= (4 if error is DamagedObjectError else 2)
    check_no_threads()


async def test_an_object_that_is_longer_is_told_by_its_first_answer(
    server: ObjectServer, tmp_path: Path
) -> None:
    server.put(BUCKET, "m/a", PARTS + b"more")

    with pytest.raises(DamagedObjectError, match=f"{len(PARTS) + 4} bytes, not {len(PARTS)}"):
        await fetch_files(
            store_on(server), BUCKET, [wanted("m/a", PARTS, tmp_path)], connections=1, limits=QUICK
        )

    assert len(server.seen) == 2


async def test_what_is_strange_must_be_said_twice(server: ObjectServer, tmp_path: Path) -> None:
    server.faults.append(Fault(status=416, headers={"Content-Range": "bytes */0"}))

    await fetch_one(server, PARTS, tmp_path)


async def test_an_object_that_changes_meanwhile_is_told(
    server: ObjectServer, tmp_path: Path
) -> None:
    server.put(BUCKET, "m/a", PARTS)

    def replace_it(_: str) -> None:
        if len(server.seen) == 2:
            server.put(BUCKET, "m/a", random_bytes(len(PARTS), 9))

    server.on_request = replace_it
    with pytest.raises(DamagedObjectError, match="changed"):
        await fetch_files(
            store_on(server), BUCKET, [wanted("m/a", PARTS, tmp_path)], connections=1, limits=QUICK
        )


async def test_a_weak_etag_is_no_condition(server: ObjectServer, tmp_path: Path) -> None:
    server.etags[f"{BUCKET}/m/weights"] = 'W/"1"'

    await fetch_one(server, PARTS, tmp_path)

    assert all(seen.headers.get("If-Match") is None for seen in server.seen)


async def test_only_what_is_missing_is_fetched_after_a_crash(
    server: ObjectServer, tmp_path: Path
) -> None:
    """A kill -9 leaves the file and its journal as they are."""
    server.put(BUCKET, "m/a", PARTS)
    file = wanted("m/a", PARTS, tmp_path)
    server.faults.extend([Fault(), Fault(cut_after=PART // 2), Fault(status=404)])
    with pytest.raises(ObjectNotFoundError):
        await fetch_files(store_on(server), BUCKET, [file], connections=1, limits=QUICK)
    before = server.sent_bytes
    assert before == PART + PART // 2
    server.seen.clear()

    await fetch_files(store_on(server), BUCKET, [file], connections=1, limits=QUICK)

    check_arrived(file, PARTS)
    assert server.sent_bytes == len(PARTS)
    assert asked(server)[0] == f"bytes={before}-{2 * PART - 1}"


async def test_a_journal_that_lies_costs_one_more_fetch_and_no_more(
    server: ObjectServer, tmp_path: Path
) -> None:
    server.put(BUCKET, "m/a", PARTS)
    file = wanted("m/a", PARTS, tmp_path)
    server.faults.extend([Fault(), Fault(), Fault(status=404)])
    with pytest.raises(ObjectNotFoundError):
        await fetch_files(store_on(server), BUCKET, [file], connections=1, limits=QUICK)
    with file.path.open("r+b") as stream:  # as after a power cut: written down, but not there
        stream.write(bytes(BUFFER))
    told: list[int] = []

    await fetch_files(
        store_on(server), BUCKET, [file], on_bytes=told.append, connections=1, limits=QUICK
    )

    check_arrived(file, PARTS)
    assert sum(told) == len(PARTS)

    server.put(BUCKET, "m/a", bytes(len(PARTS)))
    file.path.write_bytes(random_bytes(len(PARTS), 5))
    with pytest.raises(DamagedObjectError):
        await fetch_files(store_on(server), BUCKET, [file], connections=1, limits=QUICK)
    assert not file.path.exists()


@pytest.mark.parametrize("journal", [b"", b"mnemos-fetch 1\n", bytes(500)])
async def test_a_torn_journal_counts_as_none(
    server: ObjectServer, tmp_path: Path, journal: bytes
) -> None:
    file = wanted("m/weights", PARTS, tmp_path)
    file.path.write_bytes(bytes(len(PARTS)))
    journal_path(file.path).write_bytes(journal)

    await fetch_one(server, PARTS, tmp_path)


async def test_a_stop_wakes_connections_that_wait(server: ObjectServer, tmp_path: Path) -> None:
    """One object is refused while the other's connection is silent."""
    server.put(BUCKET, "m/a", PARTS)
    server.faults.append(Fault(hang_after=0))
    waiting = threading.Event()

    def refuse_the_second(_: str) -> None:
        if len(server.seen) == 1:
            server.always = Fault(status=404)
            waiting.set()

    server.on_request = refuse_the_second
    patient = replace(PATIENT, stall_seconds=60.0)
    with pytest.raises(ObjectNotFoundError):
        await fetch_files(
            store_on(server),
            BUCKET,
            [wanted("m/a", PARTS, tmp_path)],
            connections=2,
            limits=patient,
        )

    assert waiting.is_set()
    check_no_threads()


async def test_a_callback_that_fails_ends_it(server: ObjectServer, tmp_path: Path) -> None:
    server.put(BUCKET, "m/a", PARTS)

    def fail(_: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fetch_files(
            store_on(server),
            BUCKET,
            [wanted("m/a", PARTS, tmp_path)],
            on_bytes=fail,
            limits=QUICK,
        )
    check_no_threads()
