"""Telling a model of tools in words, where its chat template has no place for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Turn = dict[str, Any]

_WORDS = """You may call one or more of these functions, each a JSON object:
<tools>
{tools}
</tools>
To call one, answer with its name and arguments in <tool_call></tool_call>, and nothing else:
<tool_call>
{{"name": "function name", "arguments": {{"argument name": "value"}}}}
</tool_call>"""


def told_in_words(turns: Sequence[Turn], tools: Sequence[dict[str, Any]]) -> list[Turn]:
    """A conversation whose system message has the tools, as Hermes and Qwen are told of them.

    Calls that were made, and their results, are put into the texts of their messages.
    """
    words = _WORDS.format(tools="\n".join(_json(tool) for tool in tools))
    first, *others = [_plain(turn) for turn in turns]
    if first["role"] == "system":
        words = f"{first['content']}\n\n{words}"
    else:
        others = [first, *others]
    return [{"role": "system", "content": words}, *others]


def _plain(turn: Turn) -> Turn:
    if turn["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{turn['content']}\n</tool_response>"}
    calls = [f"<tool_call>\n{_json(_call(call))}\n</tool_call>" for call in _calls(turn)]
    return {"role": turn["role"], "content": "\n".join([turn["content"], *calls]).strip("\n")}


def _calls(turn: Turn) -> list[dict[str, Any]]:
    return turn.get("tool_calls") or []


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    return {"name": function.get("name"), "arguments": function.get("arguments")}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
