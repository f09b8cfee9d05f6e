"""OUT.jsonl and its sidecar: repaired, locked, continued, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mnemos.cli.errors import Conflict, UsageFault
from mnemos.cli.runs import record as records
from mnemos.cli.runs.answers import AnswersFile
from mnemos.cli.runs.lines import Survey
from mnemos.cli.runs.record import RunSettings, check_same_run, new_record, sidecar_of

DONE = {"id": "a", "status": "completed", "result": "x"}
FAILED = {"id": "b", "status": "failed", "result": None}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "out.jsonl"


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_answers_are_there_as_soon_as_they_are_appended(out: Path) -> None:
    answers = AnswersFile(out).open()
    assert answers.append([DONE, FAILED]) == 2
    assert ids(out) == ["a", "b"]
    assert answers.failed == 1
    answers.close()


def test_an_id_is_written_once(out: Path) -> None:
    answers = AnswersFile(out).open()
    assert answers.append([DONE, DONE]) == 1
    answers.close()
    again = AnswersFile(out).open()
    assert again.append([DONE]) == 0
    assert again.done == {"a"}
    again.close()
    assert ids(out) == ["a"]


@pytest.mark.parametrize("torn", ['{"id": "c"', '{"id": "c", "status": "completed"}', "\x00" * 9])
def test_a_torn_last_line_is_cut_off(out: Path, torn: str) -> None:
    out.parent.mkdir()
    out.write_text(json.dumps(DONE) + "\n" + torn)
    answers = AnswersFile(out).open()
    assert answers.done == {"a"}
    answers.append([FAILED])
    answers.close()
    assert ids(out) == ["a", "b"]


def test_a_file_that_is_one_long_torn_line_becomes_empty(out: Path) -> None:
    out.parent.mkdir()
    out.write_text("x" * 200_000)
    answers = AnswersFile(out).open()
    assert answers.done == set()
    answers.close()
    assert out.read_bytes() == b""


def test_a_foreign_file_is_left_alone(out: Path) -> None:
    out.parent.mkdir()
    out.write_text("dear diary\n")
    with pytest.raises(Conflict, match=r"Line 1 of .* is not an answer"):
        AnswersFile(out).open()
    assert out.read_text() == "dear diary\n"


def test_two_runs_cannot_write_one_file(out: Path) -> None:
    first = AnswersFile(out).open()
    with pytest.raises(Conflict, match="Another run is writing"):
        AnswersFile(out).open()
    first.close()
    AnswersFile(out).open().close()


def test_appending_after_close_writes_nothing(out: Path) -> None:
    answers = AnswersFile(out).open()
    answers.close()
    assert answers.append([DONE]) == 0
    assert out.read_bytes() == b""


def test_the_sidecar_comes_back_as_it_was_saved(out: Path) -> None:
    out.parent.mkdir()
    record = new_record(Survey(2, "abc"), RunSettings(family="tiny"), "http://x")
    record.cursor = "17"
    records.save(sidecar_of(out), record)
    assert records.load(sidecar_of(out)) == record
    assert records.load(out) is None


def test_a_sidecar_that_is_not_ours_is_refused(out: Path) -> None:
    out.parent.mkdir()
    sidecar_of(out).write_text("[]")
    with pytest.raises(Conflict, match="not the record of a run"):
        records.load(sidecar_of(out))


def test_another_file_or_other_settings_are_another_run(out: Path) -> None:
    settings = RunSettings(family="tiny", parameters={"temperature": 0.5})
    record = new_record(Survey(2, "abc"), settings, "http://x")
    check_same_run(record, Survey(2, "abc"), settings, out)
    with pytest.raises(Conflict, match="the prompt file has changed"):
        check_same_run(record, Survey(2, "abd"), settings, out)
    with pytest.raises(Conflict, match="family was 'tiny' and is 'large'") as refused:
        check_same_run(record, Survey(2, "abc"), RunSettings(family="large"), out)
    assert "--restart" in str(refused.value.hint)


def test_prompts_are_not_taken_for_answers(out: Path) -> None:
    out.parent.mkdir()
    out.write_text('{"id": "a", "prompt": "Hi"}\n')
    with pytest.raises(Conflict, match="is not an answer"):
        AnswersFile(out).open()


def test_answers_go_to_a_real_file_only() -> None:
    with pytest.raises(UsageFault, match="no file"):
        AnswersFile(Path("/dev/zero")).open()
