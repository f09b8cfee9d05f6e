"""A prompt file's lines: each is asked or refused with its number."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemos.cli.errors import UsageFault
from mnemos.cli.runs.lines import BadLine, Question, parse_line, read_lines, survey


def test_an_object_keeps_its_id_and_parameters() -> None:
    line = parse_line(3, b'{"id": "a", "prompt": "Hi", "parameters": {"max_tokens": 4}}')
    assert line == Question("a", 3, {"prompt": "Hi", "parameters": {"max_tokens": 4}})


def test_a_string_is_a_prompt_and_its_number_is_its_id() -> None:
    assert parse_line(7, b'"Hi"') == Question("7", 7, {"prompt": "Hi", "parameters": {}})


def test_messages_and_context_are_handed_on() -> None:
    raw = b'{"messages": [{"role": "user", "content": "Hi"}], "context": "Be brief."}'
    line = parse_line(1, raw)
    assert isinstance(line, Question)
    assert line.input["messages"] == [{"role": "user", "content": "Hi"}]
    assert line.input["context"] == "Be brief."


def test_a_numeric_id_is_text() -> None:
    assert parse_line(1, b'{"id": 5, "prompt": "Hi"}').id == "5"


@pytest.mark.parametrize(
    ("raw", "line_id", "words"),
    [
        (b"{nonsense", "line-9", "not JSON"),
        (b"[1]", "line-9", "a line is an object"),
        (b'{"prompt": ""}', "line-9", "prompt is empty"),
        (b'{"id": "a", "prompt": ""}', "a", "prompt is empty"),
        (b'{"id": "a"}', "a", "exactly one of prompt and messages"),
        (b'{"prompt": "x", "messages": [1]}', "line-9", "exactly one"),
        (b'{"prompt": 5}', "line-9", "prompt must be a text"),
        (b'{"messages": []}', "line-9", "messages is empty"),
        (b'{"id": "", "prompt": "x"}', "line-9", "id must be a text"),
        (b'{"id": true, "prompt": "x"}', "line-9", "id must be a text"),
        (b'{"prompt": "x", "parameters": []}', "line-9", "parameters must be an object"),
        (b'{"prompt": "x", "temperature": 0}', "line-9", "temperature belongs inside parameters"),
        (b'"\xff"', "line-9", "not JSON"),
        (b'{"prompt": "x", "parameters": ' + b'{"a":' * 50_000, "line-9", "nested"),
        (
            b'{"id": "a", "prompt": "x", "parameters": {"a": ' + b"[" * 70 + b"]" * 70 + b"}}",
            "a",
            "nested",
        ),
    ],
)
def test_a_bad_line_says_why(raw: bytes, line_id: str, words: str) -> None:
    line = parse_line(9, raw)
    assert isinstance(line, BadLine)
    assert (line.id, line.number) == (line_id, 9)
    assert words in line.message


@given(st.binary(max_size=200))
def test_no_line_raises(raw: bytes) -> None:
    assert parse_line(1, raw).number == 1


def test_blank_lines_count_but_are_not_asked(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf"one"\r\n\n  \n"four"')
    assert [line.number for line in read_lines(path)] == [1, 4]
    assert survey(path).total == 2


def test_duplicate_ids_name_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": "a", "prompt": "x"}\n"y"\n{"id": "a", "prompt": "z"}\n')
    with pytest.raises(UsageFault, match=r"Lines 1 and 3 .* the same id 'a'"):
        survey(path)


def test_an_id_may_not_collide_with_a_line_number(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": "2", "prompt": "x"}\n"y"\n')
    with pytest.raises(UsageFault, match="Lines 1 and 2"):
        survey(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("\n\n")
    with pytest.raises(UsageFault, match="holds no line"):
        survey(path)
