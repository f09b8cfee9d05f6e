"""An AsyncLLM with one model: opened, asked, closed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import torch
from transformers import AutoTokenizer
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from ...errors import EngineCrashedError
from ...models.job import JobInput, ResumeState
from ...models.runtime import VLLMConfig
from ..transformers_engine.hardware import cache_budget, has_fast_bfloat16
from .adapters import Adapters
from .arguments import (
    NO_COMPILER,
    check_files,
    cpu_arguments,
    engine_arguments,
    pooling_task,
)
from .children import ChildFailures
from .core import Core
from .guides import guides_config
from .pooling import PoolingPrompts
from .progress import Progress
from .requests import PoolingRequests, Request, TextRequests

CLOSE_SECONDS = 2.0
_MIB = 2**20


class VLLMEngine:
    """A loaded model. Made, asked and closed in threads, since all three block."""

    def __init__(
        self,
        folder: Path,
        name: str,
        config: VLLMConfig,
        cache: Path,
        failures: ChildFailures,
        thread: ThreadPoolExecutor,
    ) -> None:
        check_files(folder, name)
        self.name = name
        self.is_cpu = bool(current_platform.is_cpu())
        self._config = config
        self._adapters = Adapters(folder, name, cache, config, is_cpu=self.is_cpu)
        arguments = engine_arguments(folder, name, config)
        if self.is_cpu:
            os.environ.setdefault(*NO_COMPILER)
            arguments |= cpu_arguments(
                config,
                fast_bfloat16=has_fast_bfloat16(),
                free_bytes=cache_budget(torch.device("cpu")),
            )
            arguments |= self._adapters.cpu_arguments
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
        self._folder = folder
        texts = TextRequests(
            self._core,
            self._tokenizer,
            self._model_config,
            self._adapters,
            thread,
            config.tool_parser,
        )
        self._end_tokens = texts.end_tokens
        self._requests: TextRequests | PoolingRequests = texts

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
            self._requests = requests = self._pooling(await self._core.tasks())
            await self._core.pool([token], PoolingParams(task=requests.task))
            return
        parameters = SamplingParams(max_tokens=1, detokenize=False)
        adapter = self._adapters.find(None)
        if adapter is not None:
            await self._core.add_adapter(adapter)
        async for _ in self._core.generate([token], parameters, adapter):
            pass

    def prepare(self, job_input: JobInput, resume: ResumeState | None) -> Request:
        """Tokenize and check a request; blocks, in the engine's thread and no other.

        Raises:
            InvalidInputError: the model cannot be asked this.
            ArtifactCorruptError: the adapter's files are not whole.
        """
        return self._requests.make(job_input, resume)

    def _pooling(self, offered: frozenset[str]) -> PoolingRequests:
        task = pooling_task(self.name, self._config, offered)
        context = int(self._model_config.max_model_len)
        prompts = PoolingPrompts(self._tokenizer, self._folder, self.name, context)
        return PoolingRequests(self._core, task, prompts, self._model_config.hf_config)

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
