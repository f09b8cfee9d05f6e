"""The process in which inputs are checked: three lines in, one line out, until its input ends.

Asked are a line that says how, the schema, and the job's input; the answer is null, a fault, or
what is wrong with the schema. A check that takes too long ends the process by a signal.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections import OrderedDict
from typing import Any

from jsonschema.exceptions import SchemaError as NoSchemaError
from referencing.exceptions import Unresolvable

from .faults import ReadySchema
from .instances import instances_of

MAX_MEMORY_BYTES = 2**31
MAX_POINTER = 1000
MOST_READY = 64
"""So many schemas are kept ready."""


def main(cpu_seconds: float) -> None:
    """Answer until the input ends.

    Each answer costs at most `cpu_seconds` of CPU time, and as much again for each MiB of input.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    _bound_memory()
    ready = _ReadySchemas()
    while how := sys.stdin.buffer.readline():
        schema, given = sys.stdin.buffer.readline(), sys.stdin.buffer.readline()
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds * (1 + len(given) / 2**20))
        answer = json.dumps(_answer(ready, json.loads(how), schema, given))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()


class _ReadySchemas:
    def __init__(self) -> None:
        self._ready: OrderedDict[str, ReadySchema] = OrderedDict()

    def get(self, digest: str, text: bytes) -> ReadySchema:
        ready = self._ready.pop(digest, None) or ReadySchema(json.loads(text))
        self._ready[digest] = ready
        if len(self._ready) > MOST_READY:
            self._ready.popitem(last=False)
        return ready


def _answer(
    ready: _ReadySchemas, how: dict[str, Any], schema: bytes, given: bytes
) -> dict[str, str] | None:
    try:
        checks = ready.get(how["digest"], schema)
        instances = instances_of(json.loads(given), tensors=how["tensors"], scored=how["scored"])
        for instance in instances:
            fault = checks.fault(instance.value)
            if fault is not None:
                pointer = instance.pointer(fault[0])
                return {"pointer": pointer[:MAX_POINTER], "expected": fault[1]}
    except NoSchemaError as error:
        return {"unusable": error.message[:200]}
    except Unresolvable as error:
        return {"unusable": f"it refers to {error.ref[:100]!r}, which it does not define"}
    except RecursionError:
        return {"unusable": "it goes round in circles, or is nested too deep"}
    except MemoryError:
        return {"unusable": "checking with it takes too much memory"}
    return None


def _bound_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, most))


if __name__ == "__main__":
    main(float(sys.argv[1]))
