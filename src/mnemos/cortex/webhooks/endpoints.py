"""Who may be told that a batch has ended: the operator's list, from CORTEX_WEBHOOKS.

A request names an endpoint; it never brings an address. So no key can make CORTEX call what only
CORTEX can reach.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints

PREFIX = "whsec_"
SHORTEST_SECRET_BYTES = 16


def _check_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if text.startswith(PREFIX):
        try:
            known = base64.b64decode(text.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            known = b""
        if len(known) >= SHORTEST_SECRET_BYTES:
            return secret
    raise ValueError(
        f"a secret is {PREFIX} and base64 of at least {SHORTEST_SECRET_BYTES} random bytes"
    )


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("must be http:// or https://, without a user")
    return url


Secret = Annotated[SecretStr, AfterValidator(_check_secret)]
EndpointName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$")]


class WebhookEndpoint(BaseModel):
    """One receiver."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Annotated[str, AfterValidator(_check_url)]
    secrets: tuple[Secret, ...] = Field(min_length=1, max_length=4)
    """What is signed with; several while one takes the other's place."""
    every_batch: bool = True
    """False: only batches that name it."""
    keys: tuple[str, ...] | None = None
    """Only batches of these API keys (their ids); None: of all."""

    def is_open_to(self, key_id: str) -> bool:
        """Say whether a key's batches may be told to it."""
        return self.keys is None or key_id in self.keys


class Endpoints:
    """All receivers, by name."""

    def __init__(self, endpoints: Mapping[str, WebhookEndpoint] | None = None) -> None:
        self._endpoints = dict(endpoints or {})

    def __iter__(self) -> Iterator[str]:
        return iter(self._endpoints)

    def get(self, name: str) -> WebhookEndpoint | None:
        """Return an endpoint."""
        return self._endpoints.get(name)

    def unknown(self, names: Iterable[str], key_id: str) -> str | None:
        """Return a name that a key may not use, or that there is not."""
        for name in names:
            endpoint = self._endpoints.get(name)
            if endpoint is None or not endpoint.is_open_to(key_id):
                return name
        return None

    def of_batch(self, named: Iterable[str], key_id: str) -> tuple[str, ...]:
        """The endpoints that are told of a key's batch which names some."""
        wanted = set(named)
        return tuple(
            name
            for name, endpoint in self._endpoints.items()
            if name in wanted or (endpoint.every_batch and endpoint.is_open_to(key_id))
        )
