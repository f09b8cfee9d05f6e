"""The gRPC contract, from the comments of its .proto file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

from .markdown import code, head, prose, table

ROOT = Path(__file__).resolve().parents[2]
_SERVICE, _MESSAGE, _METHOD, _FIELD = 6, 4, 2, 2
"""The numbers that a descriptor's fields have in paths to comments."""


def page() -> str:
    """Return the page."""
    file = _described()
    said = {tuple(one.path): one.leading_comments for one in file.source_code_info.location}
    parts = [
        head("gRPC", "What a worker and CORTEX say to each other: `proto/` of the repository.")
    ]
    for number, service in enumerate(file.service):
        parts.append(f"\n## {service.name}\n\n{prose(said.get((_SERVICE, number)))}\n\n")
        rows = []
        for place, method in enumerate(service.method):
            asked = ("stream " if method.client_streaming else "") + _short(method.input_type)
            told = ("stream " if method.server_streaming else "") + _short(method.output_type)
            text = prose(said.get((_SERVICE, number, _METHOD, place)))
            rows.append((code(method.name), code(asked), code(told), text))
        parts.append(table(("call", "request", "answer", ""), rows))
    parts.append("\n## Messages\n")
    for number, message in enumerate(file.message_type):
        parts += _message(message, (_MESSAGE, number), said)
    return "".join(parts)


def _described() -> FileDescriptorProto:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "set"
        [source] = (ROOT / "proto").rglob("*.proto")
        words = [
            "protoc",
            f"--proto_path={ROOT / 'proto'}",
            f"--proto_path={resources.files('grpc_tools') / '_proto'}",
            "--include_source_info",
            f"--descriptor_set_out={output}",
            str(source),
        ]
        status = protoc.main(words)
        if status != 0:
            raise SystemExit(f"protoc failed with status {status}")
        return FileDescriptorSet.FromString(output.read_bytes()).file[-1]


def _message(
    message: DescriptorProto, path: Sequence[int], said: Mapping[tuple[int, ...], str]
) -> Iterator[str]:
    yield f"\n### {message.name}\n\n{prose(said.get(tuple(path)))}\n"
    if message.field:
        rows = [
            (code(field.name), code(_kind(field)), prose(said.get((*path, _FIELD, place))))
            for place, field in enumerate(message.field)
        ]
        yield "\n" + table(("field", "type", ""), rows)


def _kind(field: FieldDescriptorProto) -> str:
    name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    kind = _short(field.type_name) if field.type_name else name
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return f"repeated {kind}" if repeated else kind


def _short(name: str) -> str:
    return name.rsplit(".", 1)[-1]
