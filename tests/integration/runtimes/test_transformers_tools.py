"""What a model is told of tools, and what stays of the marks around its calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_llama import TOOLS_TEMPLATE, build_tiny_llama

from neuron.errors import InvalidInputError
from neuron.models.job import JobInput
from neuron.runtimes.transformers_engine.prompt import PromptBuilder
from neuron.runtimes.transformers_engine.text import Detokenizer
from neuron.runtimes.transformers_engine.tokens import Tokens

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"at": "Köln"}'}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Look!"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "Rain.", "tool_call_id": "a", "name": "look"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = build_tiny_llama(tmp_path_factory.mktemp("m"), chat_template=TOOLS_TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "<|other|>"]})
    return tokenizer


def asked(**parameters: Any) -> JobInput:
    return JobInput.model_validate({"messages": MESSAGES, "parameters": parameters})


def test_tools_calls_and_results_are_in_the_prompt(tokenizer: Any) -> None:
    prompts = PromptBuilder(tokenizer, "tiny:1", 2048, len(tokenizer))
    text = prompts.text_of(prompts.build(asked(tools=TOOLS)))
    assert '"name": "look", "parameters": {"type": "object"}' in text
    assert '{"name": "look", "arguments": {"at": "Köln"}}' in text, "an object, not a text"
    assert "tool\nRain." in text


def test_a_template_that_knows_no_tools_is_named_or_told_in_words(
    tokenizer: Any, cache: Path
) -> None:
    from transformers import AutoTokenizer

    simple = AutoTokenizer.from_pretrained(cache / "tiny" / "1")
    prompts = PromptBuilder(simple, "tiny:1", 2048, len(simple))
    with pytest.raises(InvalidInputError, match=r"^tools: the chat template of tiny:1 knows no"):
        prompts.build(asked(tools=TOOLS))
    told = PromptBuilder(simple, "tiny:1", 2048, len(simple), "hermes")
    text = told.text_of(told.build(asked(tools=TOOLS)))
    assert text.startswith("<|im_start|>system\n")
    assert '{"type": "function", "function": {"name": "look"' in text
    assert '<tool_call>\n{"name": "look", "arguments": {"at": "Köln"}}\n</tool_call>' in text
    assert "user\n<tool_response>\nRain.\n</tool_response>" in text
    with pytest.raises(InvalidInputError, match="tools go with messages"):
        prompts.build(JobInput(prompt="Look!", parameters={"tools": TOOLS}))


def test_special_tokens_around_calls_are_text_to_who_has_tools(tokenizer: Any) -> None:
    written = 'Wait.<|other|>[TOOL_CALLS][{"name": "look"}]<|im_end|>'
    ids = tokenizer.encode(written, add_special_tokens=False)
    tokens = Tokens(tokenizer)
    assert tokens.decode(ids) == 'Wait.[{"name": "look"}]'
    expected = 'Wait.[TOOL_CALLS][{"name": "look"}]'
    assert tokens.with_calls.decode(ids) == expected
    one_by_one = Detokenizer(tokens.with_calls, ids[:1])
    pieces = [one_by_one.add(token) for token in ids[1:]]
    assert tokens.decode(ids[:1]) + "".join(pieces) + one_by_one.flush() == expected
