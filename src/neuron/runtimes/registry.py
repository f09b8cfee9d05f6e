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

_CLASSES: dict[RuntimeType, tuple[str, str]] = {
    RuntimeType.TRANSFORMERS: (".transformers_runtime", "TransformersRuntime"),
}
_NEEDED_MODULES: dict[RuntimeType, tuple[str, ...]] = {
    RuntimeType.TRANSFORMERS: ("torch", "transformers", "safetensors", "jinja2"),
}


def runtime_availability(runtime: RuntimeType, python: str | None = None) -> str | None:
    """Why a runtime cannot run here, in one sentence; None if it can.

    Cheap and free of imports. Another interpreter's packages are looked at by its engine only.
    """
    if runtime not in _CLASSES:
        offered = " and ".join(sorted(_CLASSES))
        return f"this version of NEURON runs {offered} models only, not {runtime}"
    if python is not None and python != sys.executable:
        return None
    missing = [name for name in _NEEDED_MODULES[runtime] if importlib.util.find_spec(name) is None]
    if not missing:
        return None
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
