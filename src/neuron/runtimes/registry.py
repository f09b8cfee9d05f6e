"""Which runtimes there are, and which of them can run here.

The worker asks without importing an engine; the engine process asks for the class itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

from ..errors import InvalidInputError, RuntimeUnavailableError
from ..models.runtime import RuntimeType
from .base import BaseRuntime
from .interpreter import interpreter_lack

_CLASSES: dict[RuntimeType, tuple[str, str]] = {
    RuntimeType.PYTORCH: (".pytorch_runtime", "PyTorchRuntime"),
    RuntimeType.TRANSFORMERS: (".transformers_runtime", "TransformersRuntime"),
    RuntimeType.VLLM: (".vllm_runtime", "VLLMRuntime"),
    RuntimeType.ECHO: (".echo_runtime", "EchoRuntime"),
}
_NEEDED_MODULES: dict[RuntimeType, tuple[str, ...]] = {
    RuntimeType.PYTORCH: ("torch", "safetensors"),
    RuntimeType.TRANSFORMERS: ("torch", "transformers", "safetensors", "jinja2", "llguidance"),
    RuntimeType.VLLM: ("vllm", "torch", "transformers", "jinja2", "msgspec", "pydantic", "psutil"),
    RuntimeType.ECHO: (),
}
IN_PROCESS = frozenset({RuntimeType.ECHO})
"""Runtimes without files or an engine process: they run in the worker's own process."""
_SEPARATE = {RuntimeType.VLLM: "NEURON_VLLM_PYTHON"}
"""Runtimes that pin their own torch, and the setting that names the interpreter they are in."""


def runtime_availability(runtime: RuntimeType, python: str | None = None) -> str | None:
    """Why a runtime cannot run here, in one sentence; None if it can.

    Free of imports; cheap, but for the first look at another interpreter, which starts it.
    """
    if runtime not in _CLASSES:
        offered = " and ".join(sorted(_CLASSES))
        return f"this version of NEURON runs {offered} models only, not {runtime}"
    if python is not None and python != sys.executable:
        if runtime not in _SEPARATE:
            return None  # its engine tells
        lack = interpreter_lack(python, _NEEDED_MODULES[runtime])
        return None if lack is None else f"the runtime {runtime} cannot run: {lack}"
    missing = [name for name in _NEEDED_MODULES[runtime] if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    if runtime in _SEPARATE:
        return (
            f"the runtime {runtime} needs {', '.join(missing)}, not installed here: install "
            f"{runtime} in an environment of its own and name its Python with {_SEPARATE[runtime]}"
        )
    return (
        f"the runtime {runtime} needs {', '.join(missing)}, not installed here; "
        f"install mnemos-neuron[{runtime}]"
    )


def parse_runtime(word: str) -> RuntimeType:
    """The runtime of that name.

    Raises:
        InvalidInputError: there is none.
    """
    try:
        return RuntimeType(word)
    except ValueError as error:
        known = ", ".join(sorted(RuntimeType))
        raise InvalidInputError(f"unknown runtime {word!r} (known: {known})") from error


def runtime_class(runtime: RuntimeType) -> type[BaseRuntime]:
    """Import the runtime's class, its engine with it.

    Raises:
        RuntimeUnavailableError: it cannot run in this interpreter.
    """
    if (reason := runtime_availability(runtime)) is not None:
        raise RuntimeUnavailableError(reason)
    module_name, class_name = _CLASSES[runtime]
    try:
        module = importlib.import_module(module_name, __package__)
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"the runtime {runtime} could not be imported: {error}"
        ) from error
    found: type[BaseRuntime] = getattr(module, class_name)
    return found
