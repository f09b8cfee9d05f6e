"""An AsyncLLM with one model: opened, asked, closed."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoTokenizer
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from ...errors import EngineCrashedError, InvalidInputError, NeuronError
from ...models.job import JobInput, JobOutput, ResumeState
from ...models.runtime import VLLMConfig
from ..base import Generation
from ..transformers_engine.hardware import cache_budget, has_fast_bfloat16
from ..transformers_engine.prompt import PromptBuilder
from ..transformers_engine.row import Row
from .arguments import check_files, cpu_arguments, engine_arguments
from .children import ChildFailures
from .failures import core_death
from .progress import Progress
from .sampling import sampling_arguments

CLOSE_SECONDS = 2.0
_MIB = 2**20


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
    """A loaded model. Made and closed in threads, since both block; asked on the event loop."""

    def __init__(
        self, folder: Path, name: str, config: VLLMConfig, failures: ChildFailures
    ) -> None:
        check_files(folder, name)
        self.name = name
        self.is_cpu = bool(current_platform.is_cpu())
        self._config = config
        self._failures = failures
        arguments = engine_arguments(folder, name, config)
        if self.is_cpu:
            arguments |= cpu_arguments(
                config,
                fast_bfloat16=has_fast_bfloat16(),
                free_bytes=cache_budget(torch.device("cpu")),
            )
        self._tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code, local_files_only=True
        )
        self._progress = Progress()
        self._llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments), stat_loggers=[lambda *_: self._progress]
        )
        model_config = self._llm.model_config
        self.context_tokens = int(model_config.max_model_len)
        self.vocabulary = int(model_config.get_vocab_size())
        self._end_tokens = _end_tokens(model_config, self._tokenizer)
        self._prompts = PromptBuilder(self._tokenizer, name, self.context_tokens)
        self._tokens = _Tokens(self._tokenizer)
        self._ids = itertools.count(1)

    @property
    def dtype(self) -> str:
        """The number format that the model runs in."""
        return str(self._llm.model_config.dtype).removeprefix("torch.")

    @property
    def is_dead(self) -> bool:
        """Whether the engine core is gone; nothing can be asked then."""
        return bool(self._llm.errored)

    @property
    def rounds(self) -> int:
        """Grows while the scheduler makes progress."""
        return self._progress.rounds

    def death(self) -> EngineCrashedError:
        """What to raise once the engine core is gone."""
        return EngineCrashedError(core_death(self.name, self._failures.first()))

    async def try_out(self) -> None:
        """Draw one token: some models load that cannot run here.

        Raises:
            Exception: whatever vLLM says; what its processes failed of says more.
        """
        parameters = SamplingParams(max_tokens=1, detokenize=False)
        token = self._end_tokens[0] if self._end_tokens else 0
        async for _ in self._llm.generate(tokens_input([token]), parameters, "try-out"):
            pass

    def row(self, job_input: JobInput, resume: ResumeState | None) -> Row:
        """Tokenize and check a request; blocks.

        Raises:
            InvalidInputError: the model cannot be asked this.
        """
        parameters = job_input.sampling
        if (largest := max(parameters.stop_token_ids, default=0)) >= self.vocabulary:
            raise InvalidInputError(
                f"stop_token_ids: {largest} is not a token of {self.name}, which has "
                f"{self.vocabulary}"
            )
        prompt = self._prompts.build(job_input)
        return Row(
            prompt,
            parameters,
            max_tokens=min(parameters.max_tokens, self.context_tokens - len(prompt)),
            end_tokens=self._end_tokens,
            seed=0,  # drawing is vLLM's part
            tokenizer=self._tokens,
            resume=resume,
        )

    async def answer(self, row: Row) -> AsyncGenerator[Generation, None]:
        """The answer as it comes. Closing the generator aborts the request in vLLM.

        Raises:
            NeuronError: this request failed.
            EngineCrashedError: vLLM's engine core died.
        """
        if row.finish_reason is not None:  # the earlier attempt had got to the end
            yield Generation(row.take()[0], [], self._output(row))
            return
        outputs = self._llm.generate(
            tokens_input(row.to_read), self._sampling(row), str(next(self._ids))
        )
        try:
            async for output in outputs:
                if _take_in(row, output):
                    yield Generation(*row.take(), self._output(row, output.num_cached_tokens))
                    return
                yield Generation(*row.take())
                if output.finished:
                    reason = output.outputs[0].finish_reason
                    raise NeuronError(f"vLLM ended the answer before its end: {reason}")
        except EngineDeadError as error:
            raise self.death() from error
        except EngineGenerateError as error:
            raise NeuronError(f"generation failed: {error.__cause__ or error}") from error
        except VLLMClientError as error:
            raise InvalidInputError(f"vLLM refuses this request: {error}") from error
        finally:
            await outputs.aclose()

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
        self._llm.shutdown(timeout=CLOSE_SECONDS)

    def _sampling(self, row: Row) -> SamplingParams:
        ends = () if row.parameters.ignore_eos else self._end_tokens
        return SamplingParams(
            **sampling_arguments(
                row.parameters,
                max_tokens=row.max_tokens,
                end_tokens=sorted({*ends, *row.parameters.stop_token_ids}),
                resumed=row.tokens,
            ),
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )

    def _output(self, row: Row, cached_tokens: int | None = None) -> JobOutput:
        metadata = {"model": self.name, "runtime": "vllm", **row.metadata()}
        return JobOutput(
            result=row.text,
            metadata={**metadata, "cached_prompt_tokens": cached_tokens or 0},
            metrics=row.timing.metrics(len(row.tokens) - row.resumed_tokens),
        )


def _take_in(row: Row, output: Any) -> bool:
    """Give the row its new tokens; whether it has got to its end."""
    now = time.monotonic()
    timing = row.timing
    if timing.first_token is None:
        timing.first_token = now
        # Taken in another process, but the monotonic clock is the machine's.
        timing.started = getattr(output.metrics, "scheduled_ts", 0) or None
    for token in output.outputs[0].token_ids:
        row.accept(token)
        if row.finish_reason is not None:
            timing.finished = now
            return True
    return False


def _end_tokens(model_config: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer: those of generation_config.json, and the tokenizer's."""
    stated: Any = model_config.try_get_generation_config().get("eos_token_id")
    if stated is None:
        stated = getattr(model_config.hf_text_config, "eos_token_id", None)
    tokens = stated if isinstance(stated, list) else [stated]
    tokens = [*tokens, tokenizer.eos_token_id]
    return tuple(sorted({token for token in tokens if isinstance(token, int)}))
