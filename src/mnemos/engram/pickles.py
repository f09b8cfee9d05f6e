"""Looks into pickles without loading them: what would they call?

A pickle is a program. Lists of what is dangerous are never complete, so a pickle passes only if
everything it names is known to be harmless: tensors, arrays, containers and torch's own layers.
picklescan disassembles it and knows the worst by name; it is handed one pickle at a time, whole,
so that nothing before or behind can mislead it.
"""

from __future__ import annotations

import io
import logging
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from .archives import ZIP_HEAD
from .errors import ArtifactRefusedError
from .extras import require_extra

MAX_PICKLE_BYTES = 256 * 1024 * 1024
"""Tensors lie beside the pickle, so that even one of a large model is small."""

_MOST_NAMED = 100
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES = 5
"""The magic number, the protocol, the system's facts, the object, the names of its storages."""

_DTYPES = (
    r"(bool|u?int(8|16|32|64)|b?float(16|32|64)|float8_\w+|double|half|long|short|int|float"
    r"|complex(32|64|128)|q?u?int\d+)"
)
_HARMLESS = re.compile(
    r"collections\.(OrderedDict|defaultdict|Counter|deque)"
    r"|(builtins|__builtin__)\.(set|frozenset|dict|list|tuple|int|float|bool|complex|str|bytes"
    r"|bytearray|slice|range)"
    r"|_codecs\.encode|argparse\.Namespace|datetime\.(date|datetime|timedelta)|pathlib\.PosixPath"
    rf"|torch\.({_DTYPES}|Size|device|Tensor|\w+Storage)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch\.storage\.(UntypedStorage|TypedStorage)|torch\.nn\.parameter\.(Parameter|Buffer)"
    r"|torch\.nn\.modules\.\w+\.[A-Z]\w*"
    r"|numpy\.(dtype|ndarray|(_?core)\.multiarray\.(_reconstruct|scalar)"
    r"|(_?core)\.numeric\._frombuffer|dtypes\.\w+DType)"
)


def scan_pickles(files: Mapping[str, Path]) -> dict[str, Any]:
    """Return what was found in the pickles, to be kept with the model. Blocks.

    `files` maps each path in the model to where it lies. Raises ArtifactRefusedError, with the
    file and what it would call, unless all of them can be read to their end and name harmless
    things only; MissingExtraError where the scanner is not installed; OSError.
    """
    require_extra("picklescan", "pickles", "Models with pickles")
    named: set[str] = set()
    for name in sorted(files):
        for pickled in _pickles_of(files[name], name):
            named |= _scan(name, pickled)
    return {
        "scanner": f"picklescan {_scanner_version()}",
        "files": sorted(files)[:_MOST_NAMED],
        "names": sorted(named)[:_MOST_NAMED],
    }


def _scanner_version() -> str:
    from importlib.metadata import version

    return version("picklescan")


def _scan(name: str, pickled: bytes) -> set[str]:
    from picklescan.scanner import SafetyLevel, scan_pickle_bytes

    log = logging.getLogger("picklescan")
    log.propagate = False  # what it finds is raised here, once
    result = scan_pickle_bytes(io.BytesIO(pickled), name, multiple_pickles=False)
    named: set[str] = set()
    for found in result.globals:
        called = f"{found.module}.{found.name}"
        named.add(called)
        if found.safety is SafetyLevel.Dangerous:
            raise ArtifactRefusedError(
                f"{name} is a dangerous pickle: loading it would call {called[:120]}."
            )
        if not _HARMLESS.fullmatch(called):
            raise ArtifactRefusedError(
                f"{name} is a pickle that names {called[:120]}, which is not known to be "
                "harmless; save the weights alone (a state_dict), or as safetensors."
            )
    return named


def _pickles_of(path: Path, name: str) -> Iterator[bytes]:
    """Every pickle that loading the file would run."""
    with path.open("rb") as file:
        if file.read(len(ZIP_HEAD)) == ZIP_HEAD:
            yield from _pickles_in_archive(path, name)
            return
        file.seek(0)
        yield from _pickles_in_stream(file, name)


def _pickles_in_archive(path: Path, name: str) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive:
        members = [each for each in archive.infolist() if each.filename.lower().endswith(".pkl")]
        if not members:
            raise _unknown(name)
        for member in members:
            if member.file_size > MAX_PICKLE_BYTES:
                raise _too_large(name)
            with archive.open(member) as file:
                # A size that lies is found by zipfile itself, which reads no further.
                yield from _pickles_in_stream(io.BytesIO(file.read()), name)


def _pickles_in_stream(file: BinaryIO, name: str) -> Iterator[bytes]:
    count, is_legacy = 0, False
    while not is_legacy or count < _LEGACY_PICKLES:
        start = file.tell()
        first = _end_of_pickle(file, name, start)
        is_legacy = is_legacy or (count == 0 and first == _TORCH_MAGIC)
        count += 1
        end = file.tell()
        file.seek(start)
        yield file.read(end - start)
        if not file.read(1):
            return
        file.seek(end)


def _end_of_pickle(file: BinaryIO, name: str, start: int) -> object:
    """Move to where the pickle ends; return the only thing it pushes before that, if any."""
    only: object = None
    try:
        bounded = cast(IO[bytes], _Bounded(file, name))
        for count, (opcode, value, position) in enumerate(pickletools.genops(bounded)):
            if count <= 1 and opcode.name in ("LONG1", "LONG", "INT"):
                only = value
            elif opcode.name not in ("PROTO", "STOP"):
                only = None
            if position is not None and position - start > MAX_PICKLE_BYTES:
                raise _too_large(name)
    except (ValueError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise _unknown(name) from error
    return only


class _Bounded:
    """What pickletools reads from; a length that lies is not believed."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name

    def read(self, count: int) -> bytes:
        if count > MAX_PICKLE_BYTES:
            raise _too_large(self._name)
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(MAX_PICKLE_BYTES)
        if len(line) == MAX_PICKLE_BYTES:
            raise _too_large(self._name)
        return line

    def tell(self) -> int:
        return self._file.tell()


def _unknown(name: str) -> ArtifactRefusedError:
    return ArtifactRefusedError(
        f"{name} cannot be scanned to its end, so what it would do is not known."
    )


def _too_large(name: str) -> ArtifactRefusedError:
    return ArtifactRefusedError(
        f"{name} holds a pickle of more than {MAX_PICKLE_BYTES // 2**20} MiB, which is not "
        "scanned; save it as safetensors."
    )
