"""What replicas tell one another: topics, as texts that fit into a notification."""

from __future__ import annotations

from collections.abc import Iterable

CHANNEL = "cortex"
MAX_PAYLOAD_BYTES = 7900
"""PostgreSQL refuses 8000."""

EVERYTHING = "*"
"""Stands for all topics."""


def payloads(replica: str, topics: Iterable[str]) -> tuple[str, list[str]]:
    """Write topics as the payloads of notifications: the sender first, one topic a line.

    A topic that has no room in a payload, or would be read as two, wakes everybody.
    """
    texts: list[str] = []
    lines = [replica]
    room = MAX_PAYLOAD_BYTES - len(replica.encode())
    left = room
    for topic in topics:
        size = len(topic.encode()) + 1
        if size > room or "\n" in topic or "\0" in topic:
            topic, size = EVERYTHING, len(EVERYTHING) + 1
        if size > left:
            texts.append("\n".join(lines))
            lines, left = [replica], room
        lines.append(topic)
        left -= size
    texts.append("\n".join(lines))
    return CHANNEL, texts


def read_payload(payload: str) -> tuple[str, list[str]]:
    """Return who sent a payload, and the topics."""
    sender, *topics = payload.split("\n")
    return sender, topics
