"""From a job's input to what vLLM is asked, checked and tokenized."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from vllm.lora.request import LoRARequest

from ...errors import InvalidInputError
from ...models.job import JobInput, ResumeState
from ...models.runtime import ToolParser
from ...models.sampling import SamplingParameters
from ..base import Generation
from ..transformers_engine.prompt import PromptBuilder, check_tokens
from ..transformers_engine.row import Row, Timing
from ..transformers_engine.tokens import Tokens
from .adapters import Adapters
from .answering import Answering, Guiding, Reading
from .arguments import PoolingTask
from .core import Core
from .guides import Guides
from .logprobs import TokenScores
from .pooling import Pooling, PoolingPrompts
from .scoring import Scoring


class Request(Protocol):
    """Something a loaded model was asked, checked and tokenized."""

    def answer(self) -> AsyncGenerator[Generation, None]:
        """What the model says; closing the generator, or cancelling the wait, aborts it."""


class TextRequests:
    """Makes requests for a model that generates text; blocks, in `thread` and no other."""

    def __init__(
        self,
        core: Core,
        tokenizer: Any,
        model_config: Any,
        adapters: Adapters,
        thread: ThreadPoolExecutor,
        tool_parser: ToolParser = "auto",
    ) -> None:
        self.end_tokens = _end_tokens(model_config, tokenizer)
        self._core = core
        self._name = core.name
        self._tokenizer = tokenizer
        self._adapters = adapters
        self._thread = thread
        self._context_tokens = int(model_config.max_model_len)
        self._vocabulary = int(model_config.get_vocab_size())
        self._prompts = PromptBuilder(
            tokenizer, core.name, self._context_tokens, self._vocabulary, tool_parser
        )
        self._tokens = Tokens(tokenizer)
        self._guides = Guides(tokenizer, core.name, self._vocabulary)

    def make(self, job_input: JobInput, resume: ResumeState | None) -> Request:
        """Tokenize and check.

        Raises:
            InvalidInputError: the model cannot be asked this.
            ArtifactCorruptError: the adapter's files are not whole.
        """
        parameters = job_input.sampling
        adapter = self._adapters.find(parameters.adapter)
        if parameters.target is not None:
            return self._scoring(job_input, parameters.target, adapter, resume)
        return self._answering(job_input, adapter, resume)

    def _answering(
        self,
        job_input: JobInput,
        adapter: LoRARequest | None,
        resume: ResumeState | None,
    ) -> Answering:
        parameters = job_input.sampling
        check_tokens(parameters, self._name, self._vocabulary)
        guiding = None
        if (guide := self._guides.of(parameters)) is not None:
            check = functools.partial(self._guides.check_whole, guide)
            guiding = Guiding(guide.params, check, self._thread)
            # The guide ends the answer; and it cannot be taken up in the middle.
            parameters = parameters.model_copy(update={"ignore_eos": False, "min_tokens": 0})
            resume = None
        prompt = self._prompts.build(job_input)
        row = Row(
            prompt,
            parameters,
            max_tokens=min(parameters.max_tokens, self._context_tokens - len(prompt)),
            end_tokens=self.end_tokens,
            seed=0,  # drawing is vLLM's part
            tokenizer=self._tokens.with_calls if parameters.tools else self._tokens,
            resume=resume,
        )
        scores = None if parameters.logprobs is None else self._scores(parameters.logprobs)
        reading = None
        if (top := parameters.prompt_logprobs) is not None:
            is_given = job_input.prompt_token_ids is not None
            reading = Reading(
                self._scores(top), self._prompts.text_of(prompt) if is_given else None
            )
        metadata = self._metadata(parameters)
        return Answering(
            self._core, row, self.end_tokens, metadata, scores, guiding, adapter, reading
        )

    def _scoring(
        self,
        job_input: JobInput,
        target: str,
        adapter: LoRARequest | None,
        resume: ResumeState | None,
    ) -> Scoring:
        timing = Timing(time.monotonic())
        prompt = self._prompts.build(job_input)
        tokens: list[int] = self._tokenizer.encode(target, add_special_tokens=False)
        if not tokens:
            raise InvalidInputError(f"target: {self._name} has no tokens for it")
        if (length := len(prompt) + len(tokens)) > self._context_tokens:
            raise InvalidInputError(
                f"prompt and target have {length} tokens and {self._name} reads at most "
                f"{self._context_tokens}: shorten them",
                prompt_tokens=len(prompt),
                context_tokens=self._context_tokens,
            )
        parameters = job_input.sampling
        scores = self._scores(parameters.logprobs or 0)
        metadata = self._metadata(parameters)
        return Scoring(
            self._core, prompt, target, tokens, metadata, scores, timing, adapter, resume
        )

    def _scores(self, top: int) -> TokenScores:
        return TokenScores(self._tokens.spell, min(top, self._vocabulary))

    def _metadata(self, parameters: SamplingParameters) -> dict[str, Any]:
        adapter = {} if parameters.adapter is None else {"adapter": parameters.adapter}
        return {"model": self._name, "runtime": "vllm", **adapter}


class PoolingRequests:
    """Makes requests for a model that reads texts; blocks."""

    def __init__(
        self, core: Core, task: PoolingTask, prompts: PoolingPrompts, hf_config: Any
    ) -> None:
        self.task = task
        self._core = core
        self._prompts = prompts
        self._labels = _labels(hf_config) if task == "classify" else ()

    def make(self, job_input: JobInput, resume: ResumeState | None) -> Request:
        """Tokenize and check; there is nothing that could be resumed.

        Raises:
            InvalidInputError: the model cannot be asked this.
        """
        submitted = time.monotonic()
        return Pooling(
            self._core,
            self.task,
            self._prompts.texts(job_input),
            self._labels,
            job_input.inputs is not None,
            {"model": self._core.name, "runtime": "vllm"},
            submitted,
        )


def _end_tokens(model_config: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer: those of generation_config.json, and the tokenizer's."""
    stated: Any = model_config.try_get_generation_config().get("eos_token_id")
    if stated is None:
        stated = getattr(model_config.hf_text_config, "eos_token_id", None)
    tokens = stated if isinstance(stated, list) else [stated]
    tokens = [*tokens, tokenizer.eos_token_id]
    return tuple(sorted({token for token in tokens if isinstance(token, int)}))


def _labels(hf_config: Any) -> Sequence[str]:
    labels: dict[int, str] = hf_config.id2label
    return [labels[index] for index in sorted(labels)]
