"""The runtimes and what each of them can be told."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ParallelSize = Literal[1, 2, 4, 8]
ToolParser = Literal["auto", "hermes", "llama3_json", "mistral"]


class RuntimeType(StrEnum):
    """The engines a worker can run a model on."""

    VLLM = "vllm"
    PYTORCH = "pytorch"
    TRANSFORMERS = "transformers"
    ECHO = "echo"
    """No engine: it gives prompts back, to measure the path alone."""


DEFAULT_RUNTIMES = (RuntimeType.VLLM, RuntimeType.PYTORCH, RuntimeType.TRANSFORMERS)
"""What a worker offers unless its operator says otherwise; echo must be asked for."""


class _RuntimeConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VLLMConfig(_RuntimeConfig):
    """How vLLM loads a model."""

    tensor_parallel_size: ParallelSize = 1
    pipeline_parallel_size: ParallelSize = 1
    max_model_len: int | None = Field(default=None, gt=0)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    max_num_seqs: int = Field(default=256, ge=1)
    max_num_batched_tokens: int | None = Field(default=None, gt=0)
    trust_remote_code: bool = False
    quantization: Literal["awq", "gptq", "squeezellm", "fp8"] | None = None
    task: Literal["auto", "generate", "embed", "classify"] = "auto"
    """What the model is for; `auto`: what its architecture says."""
    enable_lora: bool = False
    """Keep room for adapters, which a job names in `parameters.adapter`."""
    max_loras: int = Field(default=4, ge=1, le=32)
    """How many adapters one batch may hold; requests with others wait."""
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
    tool_parser: ToolParser = "auto"
    """In which form the model calls tools; CORTEX reads the calls."""


class PyTorchConfig(_RuntimeConfig):
    """How a custom PyTorch model is loaded."""

    device: str = "auto"
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    batch_size: int = Field(default=1, ge=1, le=128)
    num_workers: int = Field(default=0, ge=0, le=64)
    compile: bool = False
    use_amp: bool = False


class TransformersConfig(_RuntimeConfig):
    """How Hugging Face Transformers loads a model."""

    device: str = "auto"
    torch_dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    device_map: str | None = "auto"
    trust_remote_code: bool = False
    use_flash_attention_2: bool = False
    low_cpu_mem_usage: bool = True
    task: Literal["auto", "generate", "embed", "classify"] = "auto"
    """What the model is for; `auto`: what its architecture and its folder say."""
    tool_parser: ToolParser = "auto"
    """In which form the model calls tools; CORTEX reads the calls."""

    @model_validator(mode="after")
    def _one_quantisation(self) -> Self:
        if self.load_in_8bit and self.load_in_4bit:
            raise ValueError("load_in_8bit and load_in_4bit exclude each other")
        return self


class EchoConfig(_RuntimeConfig):
    """How fast the echo runtime answers."""

    token_seconds: float = Field(default=0.0, ge=0, le=60, allow_inf_nan=False)
    """The time between two tokens; 0: all at once."""


RuntimeConfig = VLLMConfig | PyTorchConfig | TransformersConfig | EchoConfig

CONFIG_BY_RUNTIME: dict[RuntimeType, type[RuntimeConfig]] = {
    RuntimeType.VLLM: VLLMConfig,
    RuntimeType.PYTORCH: PyTorchConfig,
    RuntimeType.TRANSFORMERS: TransformersConfig,
    RuntimeType.ECHO: EchoConfig,
}
