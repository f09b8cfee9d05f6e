"""An API key as it is kept: its secret is not among it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..principal import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key; times are Unix time, None for a limit means that there is none."""

    key_id: str
    name: str
    secret_hash: str = field(repr=False)
    scopes: frozenset[str]
    weight: float = 1.0
    """Its share of the claims, against other keys of the same priority."""
    max_waiting_jobs: int | None = None
    tokens_per_minute: int | None = None
    created_at: float
    disabled_at: float | None = None

    @property
    def principal(self) -> Principal:
        """Who its holder is, as far as requests are concerned."""
        return Principal(self.key_id, self.name, self.scopes)

    @property
    def limited(self) -> bool:
        """Whether there is anything to be counted for it."""
        return self.max_waiting_jobs is not None or self.tokens_per_minute is not None
