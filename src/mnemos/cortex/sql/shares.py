"""Whose turn it is: shares of the claims for API keys, and for batches beside online jobs.

Among the keys that wait at one priority: deficit round robin (M. Shreedhar and G. Varghese,
"Efficient Fair Queuing using Deficit Round Robin", SIGCOMM 1995). Each key is credited its weight
once a round and is served while its credit covers what its next job costs; so over a round keys
are served in proportion to their weights, whatever waits behind their first jobs.

All of it is remembered by one process alone, and only until it ends: a replica that starts begins
a new round. Used by one thread, the writer's; `set_weights` and `held_back` may be by any.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping

DEFAULT_WEIGHT = 1.0
BATCH_SHARE = 0.1
FEWEST_SLOTS_KEPT_FROM = 4
"""A worker with fewer slots keeps none free."""


class RoundRobin:
    """Deficit round robin among the keys of one priority.

    A key's credit for its next turn is given at the end of the one before. So a key whose credit
    covers a job is served whenever its turn comes, and keeps its place while it is passed over
    because nothing of it fits the worker that asks.
    """

    def __init__(self) -> None:
        self._credits: dict[str, float] = {}
        """In the order of their turns."""

    def pick(self, costs: Mapping[str, float], weights: Mapping[str, float]) -> str:
        """Serve one of some keys, which has a job of such a cost, and return it."""
        for key_id in costs:
            if key_id not in self._credits:
                self._credits[key_id] = _weight(key_id, weights)
        picked = self._one_round(costs, weights)
        while picked is None:
            self._pass_rounds(costs, weights)
            picked = self._one_round(costs, weights)
        self._credits[picked] -= costs[picked]
        return picked

    def _one_round(self, costs: Mapping[str, float], weights: Mapping[str, float]) -> str | None:
        for key_id in [key_id for key_id in self._credits if key_id in costs]:
            if self._credits[key_id] >= costs[key_id]:
                return key_id
            credit = self._credits.pop(key_id)
            self._credits[key_id] = credit + _weight(key_id, weights)
        return None

    def _pass_rounds(self, costs: Mapping[str, float], weights: Mapping[str, float]) -> None:
        """Let as many rounds pass as none of the keys can pay in."""
        rounds = min(
            math.ceil((cost - self._credits[key_id]) / _weight(key_id, weights))
            for key_id, cost in costs.items()
        )
        for key_id in costs:
            self._credits[key_id] += max(0, rounds) * _weight(key_id, weights)

    def refund(self, key_id: str, cost: float) -> None:
        """Take back that a key was served."""
        if key_id in self._credits:
            self._credits[key_id] += cost

    def keep_only(self, key_ids: Collection[str]) -> None:
        """Forget the keys of which nothing waits: they save up no credit."""
        for key_id in [key_id for key_id in self._credits if key_id not in key_ids]:
            del self._credits[key_id]


class Shares:
    """What one CORTEX process remembers of who was served.

    `batch_share` is the part of the claims that batches are sure of while online jobs wait too;
    `interactive_slots` so many of a worker's slots are not filled with batches, None: an eighth.
    """

    def __init__(
        self, *, batch_share: float = BATCH_SHARE, interactive_slots: int | None = None
    ) -> None:
        self._batch_credit = batch_share / (1 - batch_share)
        self._interactive_slots = interactive_slots
        self._weights: Mapping[str, float] = {}
        self._rounds: defaultdict[int, RoundRobin] = defaultdict(RoundRobin)
        self._owed_to_batches = 0.0
        self.held_back: set[str] = set()
        """Workers that were refused jobs of batches for the sake of the slots kept free."""

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Give keys their weights, from now on; those left out have 1. Raises ValueError."""
        for key_id, weight in weights.items():
            if not 0 < weight < math.inf:
                raise ValueError(f"The weight of {key_id!r} must be a positive number.")
        self._weights = dict(weights)

    def keep_only(self, key_ids: Collection[str]) -> None:
        """Forget the keys of which nothing waits."""
        for rounds in self._rounds.values():
            rounds.keep_only(key_ids)

    def pick(self, priority: int, costs: Mapping[str, float]) -> str:
        """Serve one of the keys that wait at a priority, by what their next jobs cost."""
        return self._rounds[priority].pick(costs, self._weights)

    def refund(self, priority: int, key_id: str, cost: float) -> None:
        """Take back that a key was served."""
        self._rounds[priority].refund(key_id, cost)

    def slots_kept(self, slots: int) -> int:
        """How many of a worker's slots are not filled with batches; one always may be."""
        kept = self._interactive_slots
        if kept is None:
            kept = max(1, slots // 8) if slots >= FEWEST_SLOTS_KEPT_FROM else 0
        return max(0, min(kept, slots - 1))

    @property
    def batch_is_due(self) -> bool:
        """Whether a batch goes before online jobs now, so that it has its share."""
        return self._owed_to_batches >= 1 - 1e-9

    def note_online(self) -> None:
        """An online job was given away while a batch waited."""
        self._owed_to_batches += self._batch_credit

    def note_batch(self) -> None:
        """A job of a batch was given away."""
        self._owed_to_batches = max(0.0, self._owed_to_batches - 1)


def _weight(key_id: str, weights: Mapping[str, float]) -> float:
    return weights.get(key_id, DEFAULT_WEIGHT)
