"""From a model's folder and a PyTorchConfig to a module that is ready to be called."""

from __future__ import annotations

import importlib.metadata
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ...errors import (
    ArtifactCorruptError,
    InsufficientResourcesError,
    InvalidInputError,
    NeuronError,
    OutOfMemoryError,
    RuntimeUnavailableError,
)
from ...models.runtime import PyTorchConfig
from ..base import EngineSettings
from ..torch_faults import first_line, is_out_of_memory
from ..transformers_engine.hardware import default_device
from .export_guard import check_exported
from .script_guard import check_script, is_script
from .signature import Signature, read_signature

ENTRY_POINTS = "neuron.pytorch_models"
Kind = Literal["torch_export", "torchscript", "safetensors", "pickle"]
_PICKLES = ("*.pth", "*.bin", "*.pkl", "*.pickle", "*.ckpt")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, how it is called, and on what."""

    name: str
    kind: Kind
    call: Callable[..., Any]
    positional: list[str] | None
    """The inputs' names in their order, where the model takes some by position."""
    signature: Signature
    device: torch.device
    dtype: torch.dtype | None
    """What floating-point inputs are turned into; None: what the signature says."""
    use_amp: bool


def load_model(
    folder: Path, name: str, config: PyTorchConfig, settings: EngineSettings
) -> LoadedModel:
    """Read the folder; blocks for as long as that takes, reaches no network.

    Raises:
        NeuronError: InvalidInputError, ArtifactCorruptError, OutOfMemoryError,
            InsufficientResourcesError or RuntimeUnavailableError, with the reason.
    """
    signature = read_signature(folder, name)
    device = _device(config)
    kind, path = _find(folder, name, settings)
    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    try:
        model, call, positional = _load(kind, path, name, signature, settings, device, dtype)
        if config.compile:
            call = _compiled(call, kind)
    except NeuronError:
        raise
    except Exception as error:
        raise _translated(error, name) from error
    if positional is None and not _takes_by_name(model, signature):
        positional = [spec.name for spec in signature.inputs]
    return LoadedModel(name, kind, call, positional, signature, device, dtype, config.use_amp)


def _find(folder: Path, name: str, settings: EngineSettings) -> tuple[Kind, Path]:
    exported = sorted(folder.glob("*.pt2"))
    scripts = sorted(folder.glob("*.pt"))
    if len(exported) + len(scripts) > 1:
        raise InvalidInputError(f"{name} has several models: keep one .pt2 or .pt file")
    if exported:
        return "torch_export", exported[0]
    if scripts and zipfile.is_zipfile(scripts[0]) and is_script(scripts[0]):
        return "torchscript", scripts[0]
    if not scripts and any(folder.glob("*.safetensors")):
        return "safetensors", folder
    pickles = scripts or sorted(path for each in _PICKLES for path in folder.glob(each))
    if not pickles:
        raise ArtifactCorruptError(
            f"the files of {name} are not complete: no .pt2, .pt or .safetensors"
        )
    if not settings.allow_pickle:
        raise InvalidInputError(
            f"{name} is a pickle ({pickles[0].name}), which can run any code when it is loaded: "
            "export it with torch.export, or save it as safetensors "
            "(a worker's operator can allow pickles with NEURON_ALLOW_PICKLE=true)"
        )
    return "pickle", pickles[0]


def _load(
    kind: Kind,
    path: Path,
    name: str,
    signature: Signature,
    settings: EngineSettings,
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[Any, Callable[..., Any], list[str] | None]:
    if kind == "torch_export":
        check_exported(path, name, settings)
        return _load_exported(path, signature, device, dtype)
    if kind == "torchscript":
        check_script(path, name, settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model = torch.jit.load(str(path), map_location=device)
    elif kind == "safetensors":
        model = _build(name, signature)
        weights: dict[str, torch.Tensor] = {}
        for file in sorted(path.glob("*.safetensors")):
            weights |= load_file(file)
        _put_weights(model, weights, name)
    else:
        found = torch.load(path, map_location="cpu", weights_only=False)
        model = found if isinstance(found, torch.nn.Module) else _build(name, signature)
        if model is not found:
            _put_weights(model, found, name)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    model.to(device=device, dtype=dtype)
    return model, model, None


def _load_exported(
    path: Path, signature: Signature, device: torch.device, dtype: torch.dtype | None
) -> tuple[Any, Callable[..., Any], list[str] | None]:
    program = torch.export.load(str(path))
    if device.type != "cpu" or program_device(program) != device.type:
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    model = program.module()
    model.requires_grad_(requires_grad=False)
    if dtype is not None:
        model.to(dtype)
    by_keyword = set(program.call_spec.in_spec.child(1).context or ())
    names = [spec.name for spec in signature.inputs if spec.name not in by_keyword]
    expected = program.module_call_graph[0].signature.forward_arg_names or []
    in_order = [each for each in expected if each in names]
    return model, model, in_order if len(in_order) == len(names) else names


def program_device(program: Any) -> str:
    """Where an exported program was made to run."""
    tensors = [*program.state_dict.values(), *program.constants.values()]
    return next((t.device.type for t in tensors if isinstance(t, torch.Tensor)), "cpu")


def _build(name: str, signature: Signature) -> Any:
    """Make the model of a class that the operator installed: the artifact only names it."""
    if signature.model is None:
        raise InvalidInputError(
            f'{name} holds weights only: its signature.json must name their class, as "model": '
            f'{{"class": …}}, out of the entry points {ENTRY_POINTS} that workers have installed'
        )
    wanted = signature.model.name
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    found = [point for point in points if point.name == wanted]
    if not found:
        known = ", ".join(sorted({point.name for point in points})) or "none"
        raise RuntimeUnavailableError(
            f"{name} needs the model class {wanted}, which is not installed on this worker "
            f"(the entry points {ENTRY_POINTS} have: {known})"
        )
    if len({point.value for point in found}) > 1:
        raise RuntimeUnavailableError(f"several installed packages offer the class {wanted}")
    try:
        model = found[0].load()(**signature.model.arguments)
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"the model class {wanted} cannot be imported: {error}"
        ) from error
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"the model class {wanted} refuses the arguments of {name}: {error}"
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise RuntimeUnavailableError(f"the entry point {wanted} does not make a torch module")
    return model


def _put_weights(model: Any, weights: Any, name: str) -> None:
    if not isinstance(weights, dict):
        raise InvalidInputError(f"{name} is a pickle of neither a module nor its weights")
    wanted = model.state_dict()
    if missing := sorted(set(wanted) - set(weights)):
        raise ArtifactCorruptError(f"the files of {name} lack the tensor {missing[0]}")
    if unknown := sorted(set(weights) - set(wanted)):
        raise InvalidInputError(f"the class of {name} has no tensor {unknown[0]}")
    for key, tensor in weights.items():
        if tensor.shape != wanted[key].shape:
            raise InvalidInputError(
                f"the tensor {key} of {name} has the shape {list(tensor.shape)}, and its class "
                f"expects {list(wanted[key].shape)}"
            )
    model.load_state_dict(weights, assign=True)


def _takes_by_name(model: Any, signature: Signature) -> bool:
    """Whether the model's forward has an argument for every input."""
    names = {spec.name for spec in signature.inputs}
    if isinstance(model, torch.jit.ScriptModule):
        return names <= {argument.name for argument in model.forward.schema.arguments}
    code = getattr(type(model).forward, "__code__", None)
    return code is not None and names <= set(code.co_varnames[: code.co_argcount])


def _compiled(call: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
    if kind == "torchscript":
        raise InvalidInputError("compile: TorchScript is compiled already; leave compile out")
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # in this process: its children could outlive the engine
    compiled: Callable[..., Any] = torch.compile(call, dynamic=True)
    return compiled


def _device(config: PyTorchConfig) -> torch.device:
    device = default_device() if config.device == "auto" else torch.device(config.device)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InsufficientResourcesError(f"the device {device} is not here ({count} GPUs)")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InsufficientResourcesError("the device mps is not here")
    return device


def _translated(error: Exception, name: str) -> NeuronError:
    if is_out_of_memory(error):
        return OutOfMemoryError(f"{name} does not fit into memory: {first_line(error)}")
    if isinstance(error, SafetensorError | OSError):
        return ArtifactCorruptError(f"the files of {name} cannot be read: {first_line(error)}")
    return ArtifactCorruptError(f"{name} cannot be loaded: {first_line(error)}")
