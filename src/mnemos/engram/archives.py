"""Looks into the zip archives that torch writes, and lets no ambiguous one pass.

Readers of zip files disagree about damaged or crafted archives: one believes the directory at the
end, another the headers in front of each member, one takes the first of two members of a name,
another the last. What is checked here must be what is loaded elsewhere, so an archive must read
the same either way.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from .errors import ArtifactRefusedError

ArchiveKind = Literal["torch_export", "torchscript", "pickle", "other"]

ZIP_HEAD = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_END_RECORD = struct.Struct("<4sHHHHIIH")
_ENCRYPTED = 0x1
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_MAX_MEMBERS = 100_000


def archive_kind(path: Path, name: str) -> ArchiveKind:
    """Return what the zip archive at `path` is for torch. Blocks.

    Raises ArtifactRefusedError for one that is damaged, ambiguous or several things at once.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            members = archive.infolist()
            kind = _kind(name, [member.filename for member in members])
            if kind != "other":
                _check_end(name, file, len(archive.comment))
                _check_members(name, file, members)
            return kind
    except (zipfile.BadZipFile, struct.error, NotImplementedError, UnicodeDecodeError) as error:
        raise ArtifactRefusedError(f"{name} is damaged: its archive cannot be read.") from error


def _kind(name: str, members: list[str]) -> ArchiveKind:
    paths = [PurePosixPath(member).parts for member in members]
    inner = {"/".join(parts[1:]) for parts in paths}
    is_script = any(parts[1:2] == ("code",) for parts in paths)
    is_exported = "archive_format" in inner or "serialized_exported_program.json" in {
        parts[-1] for parts in paths if parts
    }
    if is_script and is_exported:
        raise ArtifactRefusedError(f"{name} is TorchScript and torch.export at once; save it anew.")
    if is_exported:
        return "torch_export"
    if is_script:
        return "torchscript"
    # torch.save writes …/data.pkl; TorchScript has one too, but beside its …/code/.
    is_pickle = any(parts and parts[-1].lower() == "data.pkl" for parts in paths)
    return "pickle" if is_pickle else "other"


def _check_end(name: str, file: BinaryIO, comment_bytes: int) -> None:
    file.seek(-_END_RECORD.size, 2)
    signature, *_ = _END_RECORD.unpack(file.read(_END_RECORD.size))
    if comment_bytes or signature != b"PK\x05\x06":
        raise ArtifactRefusedError(f"{name} is damaged: its archive does not end as torch's do.")


def _check_members(name: str, file: BinaryIO, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > _MAX_MEMBERS:
        raise ArtifactRefusedError(f"{name} holds more than {_MAX_MEMBERS} members.")
    if len({member.filename.casefold() for member in members}) != len(members):
        raise ArtifactRefusedError(f"{name} is damaged: its archive holds a member twice.")
    end = 0
    for member in sorted(members, key=lambda each: each.header_offset):
        _check_name(name, member)
        start = member.header_offset
        if start < end or (end == 0 and start != 0):
            raise ArtifactRefusedError(
                f"{name} is damaged: the members of its archive overlap or hide something."
            )
        end = _end_of(name, file, member)


def _check_name(name: str, member: zipfile.ZipInfo) -> None:
    parts = PurePosixPath(member.filename).parts
    if ".." in parts or member.filename.startswith("/") or "\\" in member.filename:
        raise ArtifactRefusedError(
            f"{name} is not allowed: its member {member.filename[:80]!r} leaves the archive."
        )
    if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
        raise ArtifactRefusedError(f"{name} is encrypted or packed in a way that torch never uses.")


def _end_of(name: str, file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where the member's data end, by the header in front of it, which must name the same."""
    file.seek(member.header_offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    signature, flags, method = header[0], header[2], header[3]
    name_bytes, extra_bytes = int(header[9]), int(header[10])
    own = file.read(name_bytes).decode("utf-8" if flags & 0x800 else "cp437")
    agrees = signature == ZIP_HEAD and own == member.orig_filename
    if not agrees or (flags, method) != (member.flag_bits, member.compress_type):
        raise ArtifactRefusedError(
            f"{name} is damaged: its archive says two things about {member.filename[:80]!r}."
        )
    header_bytes = _LOCAL_HEADER.size + name_bytes + extra_bytes
    return member.header_offset + header_bytes + member.compress_size
