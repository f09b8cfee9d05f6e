"""GENOME's settings, from GENOME_* variables or given by whoever embeds it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from platformdirs import user_data_path
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..bearer import SHORTEST_SECRET

ENV_PREFIX = "GENOME_"


class GenomeSettings(BaseSettings):
    """Where GENOME keeps its data and where it listens. Port 0 draws a free one."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # a URL holds a password
    )

    data_dir: Path = Field(default_factory=lambda: user_data_path("mnemos", appauthor=False))
    database_url: SecretStr | None = None
    """PostgreSQL's (postgresql://user:password@host/name); without it, SQLite in `data_dir`."""
    http_host: str = Field(default="127.0.0.1", min_length=1)
    http_port: int = Field(default=8081, ge=0, le=65535)
    token: SecretStr | None = None
    """Changes need it; beyond loopback, reads do too."""
    auth: Literal["auto", "off"] = "auto"
    """off: GENOME listens beyond loopback without a token."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"

    @field_validator("token")
    @classmethod
    def _is_no_guess(cls, token: SecretStr | None) -> SecretStr | None:
        if token is None or not token.get_secret_value():
            return None
        if len(token.get_secret_value()) < SHORTEST_SECRET:
            raise ValueError(f"must have at least {SHORTEST_SECRET} characters")
        return token

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None or not url.get_secret_value():
            return None
        if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return url


def unknown_names(names: Iterable[str] | None = None) -> list[str]:
    """Return GENOME_* variables that mean nothing: a typing mistake must not go unseen."""
    known = {f"{ENV_PREFIX}{field.upper()}" for field in GenomeSettings.model_fields}
    given = os.environ if names is None else names
    return sorted(
        name for name in given if name.startswith(ENV_PREFIX) and name.upper() not in known
    )
