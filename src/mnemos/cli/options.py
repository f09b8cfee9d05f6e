"""Flags that several commands share; each names its environment variable and its default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import Format

if TYPE_CHECKING:
    from .engram import EngramTarget

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

DEFAULT_CORTEX_URL = "http://127.0.0.1:8080"
DEFAULT_GENOME_URL = "http://127.0.0.1:8081"
DEFAULT_MODEL = "smollm2:135m-instruct"


def default_data_dir() -> Path:
    """Where state lives when nobody says otherwise."""
    from platformdirs import user_data_path

    return user_data_path("mnemos")


def _data_dir(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path:
    return (value or default_data_dir()).expanduser().absolute()


def data_dir_option() -> Decorator:
    """`--data-dir`: an absolute path; the folder may not exist yet."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="MNEMOS_DATA_DIR",
        show_envvar=True,
        callback=_data_dir,
        help="Where state lives.  [default: the user's data folder, e.g. ~/.local/share/mnemos]",
    )


def cortex_option() -> Decorator:
    """`--cortex-url`."""
    return _url_option("--cortex-url", "MNEMOS_CORTEX_URL", DEFAULT_CORTEX_URL, "CORTEX (jobs)")


def genome_option() -> Decorator:
    """`--genome-url`."""
    return _url_option("--genome-url", "MNEMOS_GENOME_URL", DEFAULT_GENOME_URL, "GENOME (models)")


def _url_option(flag: str, variable: str, default: str, what: str) -> Decorator:
    return click.option(
        flag,
        envvar=variable,
        show_envvar=True,
        default=default,
        show_default=True,
        metavar="URL",
        help=f"Where {what} answers.",
    )


def output_option(*, listing: bool = False) -> Decorator:
    """`-o`: how stdout looks. A listing can also be one JSON object a line, or bare names."""
    formats = list(Format) if listing else [Format.TABLE, Format.JSON]
    return click.option(
        "-o",
        "--output",
        type=click.Choice([str(choice) for choice in formats]),
        default="table",
        show_default=True,
        callback=lambda _ctx, _param, value: Format(value),
        help="How the answer is printed.",
    )


def engram_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where models' files are kept: a folder or an S3 bucket, as one `engram` argument."""
    from functools import wraps

    @click.option(
        "--engram-url",
        envvar="MNEMOS_ENGRAM_URL",
        show_envvar=True,
        metavar="URL",
        help="Where models' files are: file:///dir or s3://.  [default: file://<data dir>/engram]",
    )
    @click.option(
        "--engram-endpoint",
        envvar="MNEMOS_ENGRAM_ENDPOINT",
        show_envvar=True,
        metavar="HOST:PORT",
        help="The S3 server, for an s3:// URL.  [default: none]",
    )
    @data_dir_option()
    @wraps(command)
    def with_engram(
        engram_url: str | None,
        engram_endpoint: str | None,
        data_dir: Path,
        **arguments: Any,
    ) -> Any:
        return command(
            engram=_target(engram_url, engram_endpoint, data_dir), data_dir=data_dir, **arguments
        )

    return with_engram


def _target(url: str | None, endpoint: str | None, data_dir: Path) -> EngramTarget:
    from .engram import EngramTarget

    return EngramTarget.of(url, endpoint, data_dir)
