"""Calls of tools in the forms that models write them in, however a stream cuts them."""

from __future__ import annotations

import json

import pytest

from mnemos.cortex.openai.tool_calls import Call, Calling, CallReader, call_id

AUTO = Calling(frozenset({"look", "go"}), "auto", is_forced=False, only_one=False)
FORCED = Calling(frozenset({"look", "go"}), "auto", is_forced=True, only_one=False)
LOOK = Call("look", '{"at": "Köln"}')
GO = Call("go", "{}")
HERMES = '<tool_call>\n{"name": "look", "arguments": {"at": "Köln"}}\n</tool_call>'
HERMES_GO = '<tool_call>{"name": "go", "arguments": {}}</tool_call>'
LLAMA = '{"name": "look", "parameters": {"at": "Köln"}}'
LLAMA_GO = '{"type": "function", "function": {"name": "go", "parameters": "{}"}}'
MISTRAL = '[TOOL_CALLS] [{"name": "look", "arguments": {"at": "Köln"}, "id": "abcdefghi"}'
TRICKY = Call("look", json.dumps({"at": "</tool_call> <tool_call>"}))
HERMES_TRICKY = f'<tool_call>{{"name": "look", "arguments": {TRICKY.arguments}}}</tool_call>'
NO_NUMBER = '{"name": "go", "arguments": {"x": 1e999}}'


def read(calling: Calling, *pieces: str) -> tuple[str, list[Call]]:
    reader = CallReader(calling)
    said = [one for piece in pieces for one in reader.feed(piece)] + reader.end()
    text = "".join(one for one in said if isinstance(one, str))
    return text, [one for one in said if isinstance(one, Call)]


@pytest.mark.parametrize(
    ("answer", "text", "calls"),
    [
        ("Hello, < [you] {there}.", "Hello, < [you] {there}.", []),
        (" \n Hello \n", " \n Hello \n", []),
        ("", "", []),
        (" \n", " \n", []),
        (HERMES, "", [LOOK]),
        (f"\n\n{HERMES}\n{HERMES_GO}\n", "", [LOOK, GO]),
        (f"Let me look. {HERMES} Done. ", "Let me look.  Done. ", [LOOK]),
        (HERMES.removesuffix("</tool_call>"), "", [LOOK]),
        (HERMES_TRICKY, "", [TRICKY]),
        ('<tool_call>{"name": "look", "argum', '<tool_call>{"name": "look", "argum', []),
        ("Say <tool_call> to call.", "Say <tool_call> to call.", []),
        (LLAMA, "", [LOOK]),
        (f"<|python_tag|>{LLAMA}; {LLAMA_GO}", "", [LOOK, GO]),
        (f"[{LLAMA}, {LLAMA_GO}]", "", [LOOK, GO]),
        ('{"name": "Ann", "parameters": {}}', '{"name": "Ann", "parameters": {}}', []),
        ('{"name": "look"}', '{"name": "look"}', []),
        ('{"age": 5}', '{"age": 5}', []),
        (f"{LLAMA} is a call", f"{LLAMA} is a call", []),
        (NO_NUMBER, NO_NUMBER, []),
        (f"{MISTRAL}]", "", [LOOK]),
        (f'I will. {MISTRAL}, {{"name": "go", "arguments": {{}}}}]', "I will. ", [LOOK, GO]),
        (f"{MISTRAL}, ", f"{MISTRAL}, ", []),
        ('[TOOL_CALLS]look[ARGS]{"at": "Köln"}[TOOL_CALLS]go[CALL_ID]a1[ARGS]{}', "", [LOOK, GO]),
    ],
)  # fmt: skip
def test_calls_are_read_however_the_answer_is_cut(
    answer: str, text: str, calls: list[Call]
) -> None:
    assert read(AUTO, answer) == (text, calls)
    assert read(AUTO, *answer) == (text, calls), "letter by letter"
    for at in range(len(answer)):
        assert read(AUTO, answer[:at], answer[at:]) == (text, calls), f"cut at {at}"


def test_plain_text_and_json_that_is_no_call_do_not_wait_for_the_end() -> None:
    reader = CallReader(AUTO)
    assert reader.feed("Hello <to") == ["Hello "]
    assert reader.feed("p>") == ["<top>"]
    assert CallReader(AUTO).feed('{"age": ') == ['{"age": ']


def test_an_answer_that_is_held_to_a_form_is_a_call_or_what_it_says() -> None:
    assert read(FORCED, LLAMA.replace("parameters", "arguments")) == ("", [LOOK])
    assert read(FORCED, HERMES) == (HERMES, [])
    assert read(FORCED, '{"name": "look", "arg') == ('{"name": "look", "arg', [])


@pytest.mark.parametrize(
    ("parser", "found"),
    [("hermes", [True, False, False]), ("llama3_json", [False, True, False]),
     ("mistral", [False, False, True])],
)  # fmt: skip
def test_a_model_with_a_parser_calls_in_no_other_form(parser: str, found: list[bool]) -> None:
    calling = Calling(AUTO.names, parser, is_forced=False, only_one=False)
    answers = (HERMES, LLAMA, f"{MISTRAL}]")
    assert [bool(read(calling, answer)[1]) for answer in answers] == found


def test_one_call_where_only_one_is_wanted() -> None:
    calling = Calling(AUTO.names, "auto", is_forced=False, only_one=True)
    assert read(calling, HERMES, "\n", HERMES_GO) == ("", [LOOK])


def test_ids_are_the_same_again_and_fit_every_template() -> None:
    ids = [call_id("job_1", choice, index) for choice in range(9) for index in range(9)]
    assert len(set(ids)) == 81
    assert call_id("job_1", 0, 1) == ids[1]
    assert all(len(each) == 9 and each.isalnum() for each in ids)
