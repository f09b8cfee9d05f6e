"""One request while it is generated: its tokens, its text, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...errors import NeuronError
from ...models.job import JobOutput, ResumeState
from ...models.sampling import SamplingParameters
from .logprobs import Score
from .sampling import Draw, Penalties
from .text import Decodes, Detokenizer, StopStrings

if TYPE_CHECKING:
    from .guide import Guide


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

    With `target` the answer is given: its tokens are taken in one after the other, whatever they
    are. A row that is `scored` expects a score with every token; a resumed one's earlier tokens
    are then given too, so that they are scored again. With `max_tokens` 0 the first token ends it
    and is no part of the answer.
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
        target: Sequence[int] | None = None,
        guide: Guide | None = None,
        scored: bool = False,
    ) -> None:
        self.prompt = list(prompt)
        self.parameters = parameters
        self.max_tokens = max_tokens if target is None else len(target)
        self.seed = seed
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: Literal["stop", "length"] | None = None
        self.stop_reason: str | int | None = None
        self.cancelled = False
        self.timing = Timing(time.monotonic())
        self.penalties: Penalties | None = None
        self.scores: list[Score] = []
        self.scored = scored
        self.prompt_scores: list[Score] = []
        """Those of the prompt's tokens but the first, where the parameters ask for them."""
        self._guide = guide
        self._given = list(target or ())
        self._target_text = None if target is None else parameters.target
        model_ends = () if parameters.ignore_eos else end_tokens
        self._end_tokens = frozenset((*model_ends, *parameters.stop_token_ids))
        self._forbidden = tuple(sorted(self._end_tokens))
        # A target was made tokens alone, so it becomes text alone.
        self._detokenizer = Detokenizer(tokenizer, self.prompt if target is None else ())
        self._stops = StopStrings(parameters.stop if target is None else ())
        self._taken_text = 0
        self._taken_tokens = 0
        if resume is not None:
            self._replay(resume)
        self.resumed_tokens = self._taken_tokens

    @property
    def final_length(self) -> int:
        """Tokens that the cache holds in the end, at most."""
        return len(self.prompt) + self.max_tokens

    @property
    def to_read(self) -> list[int]:
        """What the model reads before it draws the next token."""
        return self.prompt + self.tokens

    @property
    def given_token(self) -> int | None:
        """The next token, where it is not drawn."""
        at = len(self.tokens)
        return self._given[at] if at < len(self._given) else None

    def draw(self) -> Draw:
        """What the sampler must know for the next token.

        Raises:
            InvalidInputError: the grammar cannot be followed further.
        """
        if self._guide is not None:
            allowed = self._guide.allowed()
            return Draw(self.parameters, self.seed, len(self.tokens), (), self.penalties, allowed)
        too_short = len(self.tokens) < self.parameters.min_tokens
        return Draw(
            self.parameters,
            self.seed,
            len(self.tokens),
            self._forbidden if too_short else (),
            self.penalties,
        )

    def accept(self, token: int, score: Score | None = None) -> None:
        """Take the next token in; afterwards `finish_reason` says whether it was the last."""
        if not self.max_tokens:  # only the prompt was to be read
            self.finish_reason = "length"
            return
        self.tokens.append(token)
        if score is not None:
            self.scores.append(score)
        if self.penalties is not None:
            self.penalties.add(token)
        if self._guide is not None:
            self._guide.accept(token)
        if self._target_text is not None:
            self._accept_given(token, self._target_text)
        elif token in self._end_tokens:
            self.stop_reason = token if token in self.parameters.stop_token_ids else None
            self._end("stop")
        else:
            self._add_text(self._detokenizer.add(token))
            self._end_where_due()

    @property
    def scores_prompt(self) -> bool:
        """Whether the tokens of the prompt are scored."""
        return self.parameters.prompt_logprobs is not None

    def take(self) -> tuple[str, list[int]]:
        """Text and tokens that were not taken yet; what may become a stop string stays."""
        end = len(self.text)
        if self.finish_reason is None:
            end -= self._stops.held_back(self.text)
        text = self.text[self._taken_text : end]
        tokens = self.tokens[self._taken_tokens :]
        self._taken_text = max(self._taken_text, end)
        self._taken_tokens = max(self._taken_tokens, len(self.tokens))
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

    def _end(self, reason: Literal["stop", "length"]) -> None:
        self.finish_reason = reason
        self._add_text(self._detokenizer.flush())

    def _end_where_due(self) -> None:
        if self.finish_reason is not None:
            return
        if self._guide is not None and self._guide.is_complete:
            self._end("stop")
        elif len(self.tokens) >= self.max_tokens:
            self._end("length")

    def _accept_given(self, token: int, target: str) -> None:
        """The text is the target's, even where its tokens would be spelt in another way."""
        grown = self.text + self._detokenizer.add(token)
        if len(self.tokens) >= self.max_tokens:
            self.finish_reason = "stop"
            self.text = target
        elif target.startswith(grown):
            self.text = grown

    def _replay(self, resume: ResumeState) -> None:
        if self.scored or self.scores_prompt:
            self._given = self._given or list(resume.token_ids)
            self._taken_tokens = len(resume.token_ids)
        else:
            for token in resume.token_ids:
                if self.finish_reason is None:
                    self.accept(token)
            self._taken_tokens = len(self.tokens)
        self._taken_text = len(resume.text)
