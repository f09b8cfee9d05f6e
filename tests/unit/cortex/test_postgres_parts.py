"""What CORTEX says to PostgreSQL, as text: statements and notifications."""

from __future__ import annotations

import pytest

from mnemos.cortex.sql.engine import LOCK, LOCK_FREE
from mnemos.cortex.sql.postgres.connection import as_one, translate, with_liveness
from mnemos.cortex.sql.postgres.notices import (
    EVERYTHING,
    MAX_PAYLOAD_BYTES,
    payloads,
    read_payload,
)


@pytest.mark.parametrize(
    ("written", "sent", "names"),
    [
        ("SELECT :a, :b_2, :a FROM t", b"SELECT $1, $2, $1 FROM t", ("a", "b_2")),
        ("SELECT x::text WHERE y = :y", b"SELECT x::text WHERE y = $1", ("y",)),
        (f"SELECT 1 {LOCK}", b"SELECT 1  FOR NO KEY UPDATE ", ()),
        (f"SELECT 1 {LOCK_FREE}", b"SELECT 1  FOR NO KEY UPDATE SKIP LOCKED ", ()),
    ],
)
def test_a_statement_is_translated(written: str, sent: bytes, names: tuple[str, ...]) -> None:
    assert translate(written) == (sent, names)


def test_statements_on_several_tables_are_sent_as_one() -> None:
    one, two = "INSERT INTO a SELECT :x, :y, :x", "DELETE FROM b WHERE c = :x"
    assert as_one((one,)) == b"INSERT INTO a SELECT $1, $2, $1"
    assert as_one((one, two, two)) == (
        b"WITH w0 AS (INSERT INTO a SELECT $1, $2, $1), w1 AS (DELETE FROM b WHERE c = $3) "
        b"DELETE FROM b WHERE c = $4"
    )


def test_what_a_url_says_of_patience_stands() -> None:
    told = with_liveness("postgresql://u@h/d?connect_timeout=7")
    assert "connect_timeout=7" in told
    assert "target_session_attrs=read-write" in told


def test_topics_come_through_in_as_many_payloads_as_they_need() -> None:
    topics = [f"job/{n:026}ü" for n in range(1000)]
    _, texts = payloads("ctx_a", topics)
    assert len(texts) > 1
    assert max(len(text.encode()) for text in texts) <= MAX_PAYLOAD_BYTES
    heard = [read_payload(text) for text in texts]
    assert {sender for sender, _ in heard} == {"ctx_a"}
    assert [topic for _, some in heard for topic in some] == topics


@pytest.mark.parametrize("topic", ["group/two\nlines", "group/nul\0", "group/" + "g" * 8000])
def test_a_topic_that_cannot_be_told_wakes_everybody(topic: str) -> None:
    _, texts = payloads("ctx_a", [topic])
    assert [read_payload(text)[1] for text in texts] == [[EVERYTHING]]
