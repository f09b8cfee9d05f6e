"""One request while it is generated: its tokens, its text, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import NeuronError
from ...models.job import JobOutput, ResumeState
from ...models.sampling import SamplingParameters
from .sampling import Draw, Penalties
from .text import Decodes, Detokenizer, StopStrings


@dataclass(frozen=True, slots=True)
class Piece:
    """What a row has to say after a step; `ending` is set on its last one."""

    text: str
    token_ids: list[int]
    ending: JobOutput | NeuronError | None = None


@dataclass(slots=True)
class Timing:
    """When things happened, on the monotonic clock."""

    submitted: float
    started: float | None = None
    first_token: float | None = None
    finished: float | None = None

    def metrics(self, new_tokens: int) -> dict[str, Any]:
        """Milliseconds and tokens per second of this attempt."""
        started = self.started or self.submitted
        first = self.first_token or started
        finished = self.finished or first
        busy = finished - started
        return {
            "latency_ms": _ms(finished - self.submitted),
            "queue_ms": _ms(started - self.submitted),
            "prefill_ms": _ms(first - started),
            "first_token_latency_ms": _ms(first - self.submitted),
            "decode_ms": _ms(finished - first),
            "tokens_per_second": round(new_tokens / busy, 2) if busy > 0 else 0.0,
        }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


class Row:
    """A request, from its prompt's tokens to its output.

    Tokens that count: every token drawn, the one that ends the answer included; `max_tokens`
    limits the same count. The text leaves out that token, special tokens and stop strings.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        parameters: SamplingParameters,
        *,
        max_tokens: int,
        end_tokens: Sequence[int],
        seed: int,
        tokenizer: Decodes,
        resume: ResumeState | None = None,
    ) -> None:
        self.prompt = list(prompt)
        self.parameters = parameters
        self.max_tokens = max_tokens
        self.seed = seed
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: Literal["stop", "length"] | None = None
        self.stop_reason: str | int | None = None
        self.cancelled = False
        self.timing = Timing(time.monotonic())
        self.penalties: Penalties | None = None
        model_ends = () if parameters.ignore_eos else end_tokens
        self._end_tokens = frozenset((*model_ends, *parameters.stop_token_ids))
        self._forbidden = tuple(sorted(self._end_tokens))
        self._detokenizer = Detokenizer(tokenizer, self.prompt)
        self._stops = StopStrings(parameters.stop)
        self._taken_text = 0
        self._taken_tokens = 0
        if resume is not None:
            self._replay(resume)
        self.resumed_tokens = len(self.tokens)

    @property
    def final_length(self) -> int:
        """Tokens that the cache holds in the end, at most."""
        return len(self.prompt) + self.max_tokens

    @property
    def to_read(self) -> list[int]:
        """What the model reads before it draws the next token."""
        return self.prompt + self.tokens

    def draw(self) -> Draw:
        """What the sampler must know for the next token."""
        too_short = len(self.tokens) < self.parameters.min_tokens
        return Draw(
            self.parameters,
            self.seed,
            len(self.tokens),
            self._forbidden if too_short else (),
            self.penalties,
        )

    def accept(self, token: int) -> None:
        """Take the next token in; afterwards `finish_reason` says whether it was the last."""
        self.tokens.append(token)
        if self.penalties is not None:
            self.penalties.add(token)
        if token in self._end_tokens:
            self.finish_reason = "stop"
            self.stop_reason = token if token in self.parameters.stop_token_ids else None
            self._add_text(self._detokenizer.flush())
            return
        self._add_text(self._detokenizer.add(token))
        if self.finish_reason is None and len(self.tokens) >= self.max_tokens:
            self.finish_reason = "length"
            self._add_text(self._detokenizer.flush())

    def take(self) -> tuple[str, list[int]]:
        """Text and tokens that were not taken yet; what may become a stop string stays."""
        end = len(self.text)
        if self.finish_reason is None:
            end -= self._stops.held_back(self.text)
        text = self.text[self._taken_text : end]
        tokens = self.tokens[self._taken_tokens :]
        self._taken_text = max(self._taken_text, end)
        self._taken_tokens = len(self.tokens)
        return text, tokens

    def metadata(self) -> dict[str, Any]:
        """What JobOutput tells of the generation."""
        return {
            "prompt_tokens": len(self.prompt),
            "tokens_generated": len(self.tokens),
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop_reason,
            "resumed_tokens": self.resumed_tokens,
        }

    def _add_text(self, piece: str) -> None:
        checked = len(self.text)
        self.text += piece
        if not piece or len(self.tokens) < self.parameters.min_tokens:
            return
        if (found := self._stops.find(self.text, checked)) is not None:
            at, self.stop_reason = found
            self.text = self.text[:at]
            self.finish_reason = "stop"

    def _replay(self, resume: ResumeState) -> None:
        for token in resume.token_ids:
            if self.finish_reason is None:
                self.accept(token)
        self._taken_tokens = len(self.tokens)
        self._taken_text = len(resume.text)
