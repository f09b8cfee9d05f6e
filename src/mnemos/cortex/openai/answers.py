"""Answers as OpenAI's clients read them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from ..records import JobRecord
from .asking import Answer

CHAT = "chat.completion"
TEXT = "text_completion"


def envelope(kind: str, prefix: str, job: JobRecord) -> dict[str, Any]:
    """What every answer and every piece of a stream begins with."""
    return {
        "id": f"{prefix}-{job.job_id}",
        "object": kind,
        "created": int(job.submitted_at),
        "model": f"{job.family}:{job.version}",
    }


def choices_of(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    """Each text of an answer, and what is known of it."""
    if isinstance(answer.result, list):
        return list(zip(answer.result, answer.metadata["choices"], strict=True))
    return [(answer.result, answer.metadata)]


def usage(answers: Sequence[Answer], choices: int) -> dict[str, Any]:
    """The count of tokens; a prompt that `choices` jobs share is counted once."""
    prompt = sum(one.metadata.get("prompt_tokens", 0) for one in answers[::choices])
    drawn = sum(one.metadata.get("tokens_generated", 0) for one in answers)
    told: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": drawn,
        "total_tokens": prompt + drawn,
    }
    cached = sum(one.metadata.get("cached_prompt_tokens", 0) for one in answers[::choices])
    if cached:
        told["prompt_tokens_details"] = {"cached_tokens": cached}
    return told


def chat_logprobs(told: dict[str, Any]) -> dict[str, Any] | None:
    """The tokens' log-probabilities in a chat's form."""
    if "logprobs" not in told:
        return None
    content = [
        {**_scored(entry), "top_logprobs": [_scored(other) for other in entry["top"]]}
        for entry in told["logprobs"]
    ]
    return {"content": content, "refusal": None}


def text_logprobs(
    told: dict[str, Any], echo: str = "", prompt: Sequence[dict[str, Any]] = ()
) -> dict[str, Any] | None:
    """The same in a completion's form; `echo` is what stands before the text, and `prompt` the
    entries of its tokens, if they are told as well.
    """
    if "logprobs" not in told:
        return None
    entries = [*prompt, *told["logprobs"]]
    # What a tokenizer puts before a prompt, like a token that begins it, is none of the text.
    offset = len(echo) - sum(len(entry["token"]) for entry in prompt)
    offsets = []
    for entry in entries:
        offsets.append(max(0, offset))
        offset += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [_best(entry) for entry in entries],
        "text_offset": offsets,
    }


def as_base64(vector: Sequence[float]) -> str:
    """A vector as OpenAI's clients ask for it by default: little-endian float32 in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def _best(entry: dict[str, Any]) -> dict[str, float] | None:
    """The likeliest tokens by their texts; of tokens with the same text the likelier counts."""
    if entry["logprob"] is None:
        return None
    return {other["token"]: other["logprob"] for other in reversed(entry["top"])}


def _scored(entry: dict[str, Any]) -> dict[str, Any]:
    token: str = entry["token"]
    return {"token": token, "logprob": entry["logprob"], "bytes": list(token.encode())}
