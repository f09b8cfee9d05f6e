"""The main module of every process that vLLM starts; it imports nothing of ours.

A new process runs its main module first (multiprocessing's way), so this is the place to
tie its life to its parent's, and to have it tell the engine what it died of: vLLM itself says
only that a process failed.
"""

import ctypes
import json
import logging
import os
import signal
import sys
from typing import Any

PARENT_VARIABLE = "NEURON_CHILD_OF"
FAILURE_VARIABLE = "NEURON_CHILD_FAILURE"
_PR_SET_PDEATHSIG = 1
_MAX_MESSAGE = 4000
_MAX_NOTES = 65536


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, kill -9 included."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get(PARENT_VARIABLE, str(os.getppid())) != str(os.getppid()):
        os._exit(1)  # it was gone already
    os.environ[PARENT_VARIABLE] = str(os.getpid())


def _telling_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """Make a log record; an error's exception is told to the engine too."""
    record = logging.LogRecord(*args, **kwargs)
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and record.levelno >= logging.ERROR:
        _tell(error)
    return record


def _tell(error: BaseException) -> None:
    note = {"type": type(error).__name__, "message": str(error)[:_MAX_MESSAGE]}
    try:
        fd = os.open(os.environ[FAILURE_VARIABLE], os.O_WRONLY | os.O_APPEND)
        if os.fstat(fd).st_size < _MAX_NOTES:
            os.write(fd, json.dumps(note).encode() + b"\n")  # one write: two writers never mix
        os.close(fd)
    except (KeyError, OSError):
        pass  # the log has it anyway


if __name__ == "__mp_main__":
    die_with_parent()
    logging.setLogRecordFactory(_telling_record)
