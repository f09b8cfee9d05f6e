"""Tokens that are given, not drawn: how likely the model finds each of them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from ...errors import NeuronError
from ...models.job import JobOutput, ResumeState
from ..base import Generation
from ..transformers_engine.row import Timing
from .core import Core
from .logprobs import TokenScores


@dataclass(frozen=True, slots=True)
class Scoring:
    """A request for the score of a target, checked and tokenized."""

    core: Core
    prompt: list[int]
    target: str
    tokens: list[int]
    metadata: dict[str, Any]
    scores: TokenScores
    timing: Timing
    adapter: LoRARequest | None = None
    resume: ResumeState | None = None

    async def answer(self) -> AsyncGenerator[Generation, None]:
        """The target in one piece, with its scores.

        Raises:
            NeuronError: this request failed.
            EngineCrashedError: vLLM's engine core died.
        """
        if self.adapter is not None:
            await self.core.add_adapter(self.adapter)
        output = await score_tokens(self.core, self.prompt, self.tokens, self.scores, self.adapter)
        timing = self.timing
        timing.started = getattr(output.metrics, "scheduled_ts", 0) or None
        timing.first_token = timing.finished = time.monotonic()
        had = self.resume or ResumeState()
        yield Generation(
            self.target[len(had.text) :],
            self.tokens[len(had.token_ids) :],
            self._output(output.num_cached_tokens),
        )

    def _output(self, cached_tokens: int | None) -> JobOutput:
        metadata = {
            **self.metadata,
            "prompt_tokens": len(self.prompt),
            "tokens_generated": len(self.tokens),
            "finish_reason": "stop",
            "stop_reason": None,
            "resumed_tokens": 0,
            "cached_prompt_tokens": cached_tokens or 0,
            "target_logprob": self.scores.total,
            "logprobs": self.scores.entries,
        }
        metrics = self.timing.metrics(len(self.tokens))
        return JobOutput(result=self.target, metadata=metadata, metrics=metrics)


async def score_tokens(
    core: Core,
    prompt: list[int],
    tokens: Sequence[int],
    scores: TokenScores,
    adapter: LoRARequest | None,
) -> Any:
    """Add the scores of tokens that follow a prompt; vLLM's output is returned.

    The last one is not read but drawn, with no other allowed: what is told of a drawn token is
    what the model gave it before that, and prompt and tokens may fill the whole context.
    """
    parameters = SamplingParams(
        max_tokens=1,
        temperature=0,
        allowed_token_ids=[tokens[-1]],
        logprobs=scores.top,
        prompt_logprobs=scores.top if len(tokens) > 1 else None,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )
    outputs = core.generate([*prompt, *tokens[:-1]], parameters, adapter)
    async with aclosing(outputs):
        async for output in outputs:
            read = (output.prompt_logprobs or [])[len(prompt) :]
            scores.add(tokens, [*read, *output.outputs[0].logprobs])
            return output
    raise NeuronError("vLLM ended a request without scores")
