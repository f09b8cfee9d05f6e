"""The engine's parent, which does nothing but outlive it and leave nothing of it.

    worker ── guard ── engine ── whatever its runtime starts

The kernel gives the guard every orphan below it, so nothing that an engine started escapes, not
even what moved to a session of its own. When the engine ends, the guard kills what is left, waits
until it is gone, and ends as the engine did: the worker sees the engine's own exit status, and
sees it when memory and GPUs are free again. When the worker dies, kill -9 included, the kernel
tells the guard to do the same. Should the guard itself be killed, the kernel kills the engine
with it; only what the engine had started is then left to its process group's end, or to itself.
Elsewhere than on Linux there is no guard.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..utils.process_memory import child_pids

END = signal.SIGUSR1
"""Tells a guard to end its engine and all that it started; before there is one, it just ends."""
EXIT_ORPHANED = 4
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_AWAITED = {END, signal.SIGCHLD}
_WORKERS_OWN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def guard_engine(worker_pid: int, sockets: Sequence[socket.socket]) -> None:
    """Fork: return in the child, the engine; the parent stays behind as its guard.

    To be called before anything starts a thread. `sockets` are the engine's alone.
    """
    if sys.platform != "linux":
        _die_without(worker_pid)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, END)
    _die_without(worker_pid)
    guard_pid = os.getpid()
    if engine_pid := os.fork():
        for sock in sockets:
            sock.close()
        _guard(engine_pid)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _die_without(guard_pid)


def _guard(engine_pid: int) -> NoReturn:
    for number in _WORKERS_OWN:
        signal.signal(number, signal.SIG_IGN)  # the worker decides when an engine ends
    status = _end_of(engine_pid)
    _end_children()
    _end_as(status)


def _end_of(engine_pid: int) -> int:
    """Wait until the engine has ended, or end it when told to; its wait status."""
    while signal.sigwait(_AWAITED) != END:
        ended = status = -1
        while ended:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == engine_pid:
                return status
    os.kill(engine_pid, signal.SIGKILL)
    return signal.SIGKILL


def _end_children() -> None:
    """Kill every process below this one; those of a killed parent become children of ours."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in child_pids(os.getpid()):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def _end_as(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        _prctl(_PR_SET_DUMPABLE, 0)  # the engine has left its own core, if any
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def _die_without(parent_pid: int) -> None:
    if os.getppid() != parent_pid:
        sys.stderr.write("engine exits: the worker was gone before the engine began\n")
        sys.stderr.flush()
        os._exit(EXIT_ORPHANED)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
