"""Models from the Hugging Face hub: `hf://org/name[@revision]`."""

from __future__ import annotations

import errno
import importlib.util
import re
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .errors import CliError, NotFound, Unreachable, UsageFault

SCHEME = "hf://"
WANTED = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "LICENSE*",
    "*.md",
)
"""Weights as safetensors and what goes with them; pickles stay where they are."""
UNWANTED = ("onnx/*", "openvino/*", "coreml/*", "original/*", ".*")

WEIGHTS = ("*.safetensors",)
OTHER_WEIGHTS = frozenset({".bin", ".gguf", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx"})

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFERENCE = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


class HubReference(NamedTuple):
    """A repository on the hub, and the revision if one was named."""

    repository: str
    revision: str | None


def parse_reference(text: str) -> HubReference:
    """Read `hf://org/name[@revision]`. Raises UsageFault."""
    match = _REFERENCE.fullmatch(text.removeprefix(SCHEME))
    if not match or ".." in text:
        raise UsageFault(
            f"{text!r} names no model of the hub.", hint="write it like hf://org/name@main"
        )
    return HubReference(match[1], match[2])


def default_name(reference: HubReference, commit: str) -> tuple[str, str]:
    """Family and version that a hub model gets unless `--name` says otherwise."""
    family = _NOT_IN_NAMES.sub("-", reference.repository.split("/")[1]).strip("-.").lower()
    version = _NOT_IN_NAMES.sub("-", reference.revision or commit[:12]).strip("-.")
    return family or "model", version or "main"


class HubModel(NamedTuple):
    """What the hub holds under a reference: the commit it stands for, and its files."""

    commit: str
    files: tuple[str, ...]


def look_up(reference: HubReference) -> HubModel:
    """Ask the hub which commit is meant, and what is in it. Blocking. Raises CliError."""
    require_hub()
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(reference.repository, revision=reference.revision)
    except Exception as error:
        raise _translate(reference, error) from error
    return HubModel(str(found.sha), tuple(each.rfilename for each in found.siblings or ()))


def check_weights(reference: HubReference, model: HubModel, include: Sequence[str]) -> None:
    """Raise CliError if what would be fetched holds no weights: pickles are not."""
    wanted = (*WEIGHTS, *include)
    if any(fnmatch(file, glob) for file in model.files for glob in wanted):
        return
    others = [file for file in model.files if PurePosixPath(file).suffix in OTHER_WEIGHTS]
    has = f"only {', '.join(others[:3])}" if others else "no weights at all"
    raise CliError(
        f"{SCHEME}{reference.repository} has no safetensors, {has}.",
        code="invalid_artifact",
        hint="choose one GGUF file with --include '*Q4_K_M.gguf'"
        if any(file.endswith(".gguf") for file in others)
        else "ask its owner for safetensors, or convert it and use: mnemos models push",
    )


def download(
    reference: HubReference, commit: str, folder: Path, include: Sequence[str] = ()
) -> None:
    """Fetch the wanted files of a commit into `folder`; continues a broken download.

    `include` are globs of more files. Blocking; the hub's library shows its own progress on a
    terminal. Raises CliError.
    """
    require_hub()
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        snapshot_download(
            reference.repository,
            revision=commit,
            local_dir=folder,
            allow_patterns=[*WANTED, *include],
            ignore_patterns=list(UNWANTED),
        )
    except Exception as error:
        raise _translate(reference, error) from error


def require_hub() -> None:
    """Raise CliError, with the command to type, unless huggingface_hub is there."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise CliError(
            "Models from the hub need the package huggingface_hub, which is not installed.",
            code="missing_extra",
            hint=f"install it with: {sys.executable} -m pip install 'mnemos-neuron[transformers]'",
        )


def _translate(reference: HubReference, error: Exception) -> CliError:
    from huggingface_hub import errors

    name = f"{SCHEME}{reference.repository}"
    if isinstance(error, errors.GatedRepoError):
        return CliError(
            f"{name} is gated: its owner wants to know who downloads it.",
            code="access_denied",
            hint="accept its terms on the hub, then set HF_TOKEN",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFound(
            f"The hub has no revision {reference.revision} of {reference.repository}.",
            code="model_not_found",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotFound(
            f"The hub has no model {reference.repository} that you may see.",
            code="model_not_found",
            hint="if it is private, set HF_TOKEN",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return CliError(
            f"{name} cannot be fetched: HF_HUB_OFFLINE is set.",
            code="offline",
            hint="unset it, or push the model's folder: mnemos models push DIR --name family:1",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _translate_status(name, error.response.status_code)
    if isinstance(error, errors.HFValidationError):
        return UsageFault(f"{name} names no model of the hub.")
    if isinstance(error, OSError) and (error.filename or error.errno in _FULL):
        return CliError(f"{error.filename or 'The download'}: {error.strerror}.", code="os_error")
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return Unreachable(
        f"The hub cannot be reached for {name}: {first_line}",
        hint="where the hub is out of reach, copy the model's folder here and use: "
        "mnemos models push DIR --name family:version",
    )


def _translate_status(name: str, status: int) -> CliError:
    if status in (401, 403):
        return CliError(
            f"The hub denies access to {name}: it answered {status}.",
            code="access_denied",
            hint="set HF_TOKEN to a token that may read it",
        )
    if status == 429:
        return Unreachable(f"The hub wants to be asked for {name} later: it answered 429.")
    return Unreachable(f"The hub answered {status} for {name}.")
