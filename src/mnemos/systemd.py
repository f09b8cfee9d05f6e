"""Telling systemd how a service is (sd_notify); without NOTIFY_SOCKET every call does nothing."""

from __future__ import annotations

import os
import socket

import structlog

_log = structlog.get_logger(__name__)


def ready() -> None:
    """Say that the service does its work: a unit of Type=notify has started."""
    _tell("READY=1")


def alive() -> None:
    """Feed the watchdog (WatchdogSec=)."""
    _tell("WATCHDOG=1")


def stopping() -> None:
    """Say that the service ends."""
    _tell("STOPPING=1")


def _tell(state: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # a name without a file
        address = f"\0{address[1:]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)  # a service must not wait for whoever watches it
        try:
            channel.sendto(state.encode(), address)
        except OSError as error:
            _log.warning("systemd.not_told", state=state, error=str(error))
