"""From what vLLM raises, or its processes died of, to our errors."""

from __future__ import annotations

import re

from ...errors import (
    ArtifactCorruptError,
    EngineCrashedError,
    InsufficientResourcesError,
    InvalidInputError,
    NeuronError,
    OutOfMemoryError,
    RuntimeUnavailableError,
)
from .children import ChildFailure

_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")
_OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")
_TOO_SMALL_WORDS = (
    "KV cache",
    "kv cache",
    "available memory",
    "Available memory",
    "Free memory on device",
    "larger than the number of available GPUs",
    "nproc_per_node",
    "world size",
    "World size",
    "Not enough allowed NUMA nodes",
)
_LACKING_WORDS = ("not initialized from checkpoint", "backend tokenizer")
_UNREADABLE = ("SafetensorError", "OSError", "FileNotFoundError", "JSONDecodeError", "KeyError")
_WRONG_CONFIG = ("ValidationError", "ValueError", "NotImplementedError", "AssertionError")
_MAX_SENTENCE = 400
_CODE_WORDS = "trust_remote_code"
_WORKER_WORDS = re.compile(r"Worker failed with error ['\"](.*)['\"], please check", re.DOTALL)
_NO_DEVICE_WORDS = "Failed to infer device type"
_CANNOT_WORDS = (
    "not supported for now",
    "does not recognize this architecture",
    "Unsupported",
    "is not supported",
)


def load_error(name: str, error: BaseException, told: ChildFailure | None) -> NeuronError:
    """Why a model could not be loaded; what a child told counts more than what vLLM raised."""
    if isinstance(error, NeuronError) and not isinstance(error, EngineCrashedError):
        return error
    cause = told or ChildFailure(type(error).__name__, str(error))
    words = _sentence(cause)
    if _is_out_of_memory(cause):
        return OutOfMemoryError(f"{name} does not fit into memory: {words}")
    if any(word in cause.message for word in _TOO_SMALL_WORDS):
        return InsufficientResourcesError(f"{name} does not fit this worker: {words}")
    if _CODE_WORDS in cause.message:
        return InvalidInputError(
            f"{name} needs Python code of its own, which this worker runs only if its operator "
            "sets NEURON_ALLOW_REMOTE_CODE=true and the job says trust_remote_code"
        )
    if cause.type in {"ImportError", "ModuleNotFoundError"}:
        return RuntimeUnavailableError(f"vLLM lacks a package: {words}")
    if _NO_DEVICE_WORDS in cause.message:
        return RuntimeUnavailableError(f"vLLM finds no device that it was built for: {words}")
    if any(word in cause.message for word in _CANNOT_WORDS):
        return InvalidInputError(f"vLLM cannot run {name}: {words}")
    if cause.type in _UNREADABLE or any(word in cause.message for word in _LACKING_WORDS):
        return ArtifactCorruptError(f"the files of {name} cannot be read: {words}")
    if cause.type in _WRONG_CONFIG:
        return InvalidInputError(f"vLLM cannot run {name} with this runtime_config: {words}")
    return NeuronError(f"vLLM could not load {name}: {cause.type}: {words}")


def adapter_error(name: str, error: BaseException) -> NeuronError:
    """Why vLLM did not take an adapter, whose files are known to be there."""
    quoted = _WORKER_WORDS.search(str(error))
    cause = ChildFailure(type(error).__name__, quoted[1] if quoted else str(error))
    name = name.rpartition("#")[0]
    if _is_out_of_memory(cause):
        return OutOfMemoryError(f"{name} does not fit into memory: {_sentence(cause)}")
    return InvalidInputError(f"vLLM cannot run the adapter {name}: {_sentence(cause)}")


def core_death(name: str, told: ChildFailure | None) -> str:
    """What to say of an engine core that died while it worked."""
    if told is None:
        return f"vLLM's engine core for {name} died without a word (killed, or crashed)"
    if _is_out_of_memory(told):
        return f"vLLM's engine core for {name} ran out of memory: {_sentence(told)}"
    return f"vLLM's engine core for {name} died: {told.type}: {_sentence(told)}"


def _is_out_of_memory(cause: ChildFailure) -> bool:
    text = cause.message.lower()
    return cause.type in _OUT_OF_MEMORY or any(word in text for word in _OUT_OF_MEMORY_WORDS)


def _sentence(cause: ChildFailure) -> str:
    """The first line that says something; pydantic puts the reason on the third."""
    lines = [line.strip() for line in cause.message.splitlines() if line.strip()]
    if not lines:
        return cause.type
    if cause.type == "ValidationError" and len(lines) > 1:
        return _shortened(lines[1].removeprefix("Value error, ").split(" [type=")[0])
    return _shortened(lines[0])


def _shortened(line: str) -> str:
    """Its first sentences, as many as fit; vLLM adds paragraphs of advice."""
    if len(line) <= _MAX_SENTENCE:
        return line
    end = line.rfind(". ", 0, _MAX_SENTENCE)
    return line[: end + 1] if end > 0 else line[:_MAX_SENTENCE] + "…"
