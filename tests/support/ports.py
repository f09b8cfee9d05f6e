"""Ports for servers that a test starts, stops and starts again."""

from __future__ import annotations

import contextlib
import random
import socket

_given: set[int] = set()


def lasting_ports(count: int) -> list[int]:
    """Return ports to listen on again and again, never the same twice.

    They lie below those that the system gives to outgoing connections: while a server is down,
    its clients' own connections could take its port from there, or even meet themselves.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            if port not in _given:
                probe.bind(("127.0.0.1", port))
                _given.add(port)
                ports.append(port)
    return ports
