"""vLLM's front end, AsyncLLM, with its errors in our words."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from vllm.exceptions import VLLMClientError
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from ...errors import EngineCrashedError, InvalidInputError, NeuronError
from .children import ChildFailures
from .failures import adapter_error, core_death


class Core:
    """What requests are sent to. Every error that leaves it is a NeuronError."""

    def __init__(self, llm: AsyncLLM, name: str, failures: ChildFailures) -> None:
        self.name = name
        self._llm = llm
        self._failures = failures
        self._ids = itertools.count(1)

    @property
    def is_dead(self) -> bool:
        """Whether vLLM's engine core is gone; nothing can be asked then."""
        return bool(self._llm.errored)

    def death(self) -> EngineCrashedError:
        """What to raise once the engine core is gone."""
        return EngineCrashedError(core_death(self.name, self._failures.first()))

    async def tasks(self) -> frozenset[str]:
        """What the model can be asked for, in vLLM's words."""
        return frozenset(await self._llm.get_supported_tasks())

    async def generate(
        self, tokens: list[int], parameters: SamplingParams, adapter: LoRARequest | None = None
    ) -> AsyncGenerator[Any, None]:
        """vLLM's outputs as they come. Closing the generator aborts the request."""
        outputs = self._llm.generate(
            tokens_input(tokens), parameters, str(next(self._ids)), lora_request=adapter
        )
        with self._our_errors():
            async with aclosing(outputs):
                async for output in outputs:
                    yield output

    async def pool(self, tokens: list[int], parameters: PoolingParams) -> list[float]:
        """The pooled vector of a text. Cancelling the wait aborts the request."""
        outputs = self._llm.encode(tokens_input(tokens), parameters, str(next(self._ids)))
        with self._our_errors():
            async with aclosing(outputs):
                async for output in outputs:
                    if output.finished:
                        vector: list[float] = output.outputs.data.flatten().tolist()
                        return vector
        raise NeuronError("vLLM ended a request without a vector")

    async def add_adapter(self, adapter: LoRARequest) -> None:
        """Have the adapter loaded, where it is not: a bad one fails here and not in a batch.

        Raises:
            InvalidInputError: vLLM cannot load it, or not into this model.
        """
        try:
            await self._llm.add_lora(adapter)
        except EngineDeadError as error:
            raise self.death() from error
        except Exception as error:  # vLLM raises nothing narrower
            if self.is_dead:
                raise self.death() from error
            raise adapter_error(adapter.lora_name, error) from error

    def close(self, seconds: float) -> None:
        """End vLLM's processes, by force after `seconds`; blocks. Open requests raise."""
        self._llm.shutdown(timeout=seconds)

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
        except EngineDeadError as error:
            raise self.death() from error
        except EngineGenerateError as error:
            raise NeuronError(f"generation failed: {error.__cause__ or error}") from error
        except VLLMClientError as error:
            raise InvalidInputError(f"vLLM refuses this request: {error}") from error
