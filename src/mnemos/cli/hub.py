"""Models from the Hugging Face hub: `hf://org/name[@revision]`."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
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


def resolve_commit(reference: HubReference) -> str:
    """Ask the hub which commit is meant. Blocking. Raises CliError."""
    require_hub()
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(reference.repository, revision=reference.revision)
    except Exception as error:
        raise _translate(reference, error) from error
    return str(found.sha)


def download(reference: HubReference, commit: str, folder: Path) -> None:
    """Fetch the wanted files of a commit into `folder`; continues a broken download.

    Blocking; shows its own progress on stderr. Raises CliError.
    """
    require_hub()
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            reference.repository,
            revision=commit,
            local_dir=folder,
            allow_patterns=list(WANTED),
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
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        revision = f" at {reference.revision}" if reference.revision else ""
        return NotFound(
            f"The hub has no model {reference.repository}{revision} that you may see.",
            code="model_not_found",
        )
    if isinstance(error, OSError) and error.filename:
        return CliError(f"{error.filename}: {error.strerror}.", code="os_error")
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return Unreachable(
        f"The hub cannot be reached for {name}: {first_line}",
        hint="where the hub is out of reach, copy the model's folder here and use: "
        "mnemos models push DIR --name family:version",
    )
