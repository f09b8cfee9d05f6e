"""An AsyncLLM with one model: opened, asked, closed."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from transformers import AutoTokenizer
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from ...errors import EngineCrashedError, InvalidInputError
from ...models.job import JobInput, ResumeState
from ...models.runtime import VLLMConfig
from ...models.sampling import SamplingParameters
from ..base import Generation
from ..transformers_engine.hardware import cache_budget, has_fast_bfloat16
from ..transformers_engine.prompt import PromptBuilder
from ..transformers_engine.row import Row, Timing
from .adapters import Adapters
from .answering import Answering, Guiding
from .arguments import NO_COMPILER, check_files, cpu_arguments, engine_arguments
from .children import ChildFailures
from .core import Core
from .guides import Guides, guides_config
from .logprobs import TokenScores
from .pooling import Pooling, PoolingPrompts, Task
from .progress import Progress
from .scoring import Scoring

CLOSE_SECONDS = 2.0
_MIB = 2**20


class Request(Protocol):
    """Something a loaded model was asked, checked and tokenized."""

    def answer(self) -> AsyncGenerator[Generation, None]:
        """What the model says; closing the generator, or cancelling the wait, aborts it."""


class _Tokens:
    """The tokenizer as the detokenizer needs it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, token_ids: Any, /) -> str:
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


class VLLMEngine:
    """A loaded model. Made, asked and closed in threads, since all three block."""

    def __init__(
        self, folder: Path, name: str, config: VLLMConfig, cache: Path, failures: ChildFailures
    ) -> None:
        check_files(folder, name)
        self.name = name
        self.is_cpu = bool(current_platform.is_cpu())
        self._config = config
        arguments = engine_arguments(folder, name, config)
        if self.is_cpu:
            os.environ.setdefault(*NO_COMPILER)
            arguments |= cpu_arguments(
                config,
                fast_bfloat16=has_fast_bfloat16(),
                free_bytes=cache_budget(torch.device("cpu")),
            )
        self._tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code, local_files_only=True
        )
        self._progress = Progress()
        llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments, structured_outputs_config=guides_config()),
            stat_loggers=[lambda *_: self._progress],
        )
        self._core = Core(llm, name, failures)
        self._model_config = llm.model_config
        self.context_tokens = int(self._model_config.max_model_len)
        self.vocabulary = int(self._model_config.get_vocab_size())
        self._end_tokens = _end_tokens(self._model_config, self._tokenizer)
        self._prompts = PromptBuilder(self._tokenizer, name, self.context_tokens)
        self._texts = PoolingPrompts(self._tokenizer, folder, name, self.context_tokens)
        self._tokens = _Tokens(self._tokenizer)
        self._guides = Guides(self._tokenizer, name, self.vocabulary)
        self._adapters = Adapters(folder, name, cache, config, is_cpu=self.is_cpu)
        self._pooling_task: Task | None = None

    @property
    def dtype(self) -> str:
        """The number format that the model runs in."""
        return str(self._model_config.dtype).removeprefix("torch.")

    @property
    def is_dead(self) -> bool:
        """Whether the engine core is gone; nothing can be asked then."""
        return self._core.is_dead

    @property
    def rounds(self) -> int:
        """Grows while the scheduler makes progress."""
        return self._progress.rounds

    def death(self) -> EngineCrashedError:
        """What to raise once the engine core is gone."""
        return self._core.death()

    async def try_out(self) -> None:
        """Learn what the model is for and ask it once: some models load that cannot run here.

        Raises:
            Exception: whatever vLLM says; what its processes failed of says more.
        """
        token = self._end_tokens[0] if self._end_tokens else 0
        if self._model_config.runner_type == "pooling":
            self._pooling_task = _pooling_task(self.name, self._config, await self._core.tasks())
            await self._core.pool([token], PoolingParams(task=self._pooling_task))
            return
        parameters = SamplingParams(max_tokens=1, detokenize=False)
        adapter = self._adapters.find(None)
        if adapter is not None:
            await self._core.add_adapter(adapter)
        async for _ in self._core.generate([token], parameters, adapter):
            pass

    def prepare(
        self, job_input: JobInput, resume: ResumeState | None, thread: ThreadPoolExecutor
    ) -> Request:
        """Tokenize and check a request; blocks, in `thread` and no other.

        Raises:
            InvalidInputError: the model cannot be asked this.
            ArtifactCorruptError: the adapter's files are not whole.
        """
        if self._pooling_task is not None:
            return self._pooling(job_input, self._pooling_task)
        parameters = job_input.sampling
        adapter = self._adapters.find(parameters.adapter)
        if parameters.target is not None:
            return self._scoring(job_input, parameters.target, adapter, resume)
        return self._answering(job_input, adapter, resume, thread)

    def _answering(
        self,
        job_input: JobInput,
        adapter: LoRARequest | None,
        resume: ResumeState | None,
        thread: ThreadPoolExecutor,
    ) -> Answering:
        parameters = job_input.sampling
        self._check_stop_tokens(parameters)
        guiding = None
        if (guide := self._guides.of(parameters)) is not None:
            check = functools.partial(self._guides.check_whole, guide)
            guiding = Guiding(guide.params, check, thread)
            # The guide ends the answer; and it cannot be taken up in the middle.
            parameters = parameters.model_copy(update={"ignore_eos": False, "min_tokens": 0})
            resume = None
        prompt = self._prompts.build(job_input)
        row = Row(
            prompt,
            parameters,
            max_tokens=min(parameters.max_tokens, self.context_tokens - len(prompt)),
            end_tokens=self._end_tokens,
            seed=0,  # drawing is vLLM's part
            tokenizer=self._tokens,
            resume=resume,
        )
        scores = None if parameters.logprobs is None else self._scores(parameters.logprobs)
        metadata = self._metadata(parameters)
        return Answering(self._core, row, self._end_tokens, metadata, scores, guiding, adapter)

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
            raise InvalidInputError(f"target: {self.name} has no tokens for it")
        if (length := len(prompt) + len(tokens)) > self.context_tokens:
            raise InvalidInputError(
                f"prompt and target have {length} tokens and {self.name} reads at most "
                f"{self.context_tokens}: shorten them",
                prompt_tokens=len(prompt),
                context_tokens=self.context_tokens,
            )
        parameters = job_input.sampling
        scores = self._scores(parameters.logprobs or 0)
        metadata = self._metadata(parameters)
        return Scoring(
            self._core, prompt, target, tokens, metadata, scores, timing, adapter, resume
        )

    def _pooling(self, job_input: JobInput, task: Task) -> Pooling:
        submitted = time.monotonic()
        return Pooling(
            self._core,
            task,
            self._texts.texts(job_input),
            _labels(self._model_config.hf_config) if task == "classify" else (),
            job_input.inputs is not None,
            {"model": self.name, "runtime": "vllm"},
            submitted,
        )

    def _check_stop_tokens(self, parameters: SamplingParameters) -> None:
        if (largest := max(parameters.stop_token_ids, default=0)) >= self.vocabulary:
            raise InvalidInputError(
                f"stop_token_ids: {largest} is not a token of {self.name}, which has "
                f"{self.vocabulary}"
            )

    def _scores(self, top: int) -> TokenScores:
        return TokenScores(self._token_text, min(top, self.vocabulary))

    def _token_text(self, token: int) -> str:
        text: str = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text

    def _metadata(self, parameters: SamplingParameters) -> dict[str, Any]:
        adapter = {} if parameters.adapter is None else {"adapter": parameters.adapter}
        return {"model": self.name, "runtime": "vllm", **adapter}

    def memory_mb(self) -> int:
        """What vLLM's processes hold: their share of each GPU, or their RAM."""
        if not self.is_cpu:
            gpus = self._config.tensor_parallel_size * self._config.pipeline_parallel_size
            total = int(current_platform.get_device_total_memory())
            return int(total * self._config.gpu_memory_utilization) * gpus // _MIB
        own = psutil.Process()
        held = 0
        for process in (own, *own.children(recursive=True)):
            try:
                held += int(process.memory_info().rss)
            except psutil.Error:
                continue  # it has just ended
        return held // _MIB

    def close(self) -> None:
        """End vLLM's processes, by force after CLOSE_SECONDS; blocks. Open requests raise."""
        self._core.close(CLOSE_SECONDS)


def _end_tokens(model_config: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer: those of generation_config.json, and the tokenizer's."""
    stated: Any = model_config.try_get_generation_config().get("eos_token_id")
    if stated is None:
        stated = getattr(model_config.hf_text_config, "eos_token_id", None)
    tokens = stated if isinstance(stated, list) else [stated]
    tokens = [*tokens, tokenizer.eos_token_id]
    return tuple(sorted({token for token in tokens if isinstance(token, int)}))


def _pooling_task(name: str, config: VLLMConfig, offered: frozenset[str]) -> Task:
    """What a model that reads is asked for.

    Raises:
        InvalidInputError: it cannot do what the config wants it for.
    """
    wanted: tuple[Task, ...]
    wanted = (config.task,) if config.task in ("embed", "classify") else ("classify", "embed")
    for task in wanted:
        if task in offered:
            return task
    raise InvalidInputError(
        f"runtime_config: task: {name} cannot {' or '.join(wanted)}; vLLM offers "
        f"{', '.join(sorted(offered)) or 'nothing'} for it"
    )


def _labels(hf_config: Any) -> Sequence[str]:
    labels: dict[int, str] = hf_config.id2label
    return [labels[index] for index in sorted(labels)]
