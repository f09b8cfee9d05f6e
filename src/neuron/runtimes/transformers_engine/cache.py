"""A key/value cache for a batch whose rows come and go.

Row i of every layer's buffer holds row i's keys and values from column 0 on, written in place.
The buffers grow by doubling; a row that leaves is overwritten by the last one, so that the rows
in use are always the first ones and attention reads plain slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

MIN_COLUMNS = 256


@dataclass(slots=True)
class WritePlan:
    """Where the next forward pass writes, and how far it reads; shared by all layers."""

    first_row: int = 0
    last_row: int = 0
    start: int = 0
    """The first column that a prefill writes; columns before it were written before."""
    columns: int = 0
    """How many columns attention reads."""
    rows_index: torch.Tensor | None = None
    column_index: torch.Tensor | None = None
    """For a decode step: the one column each row writes."""
    row_capacity: int = 0
    column_capacity: int = 0


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer's buffers: [rows, heads, columns, head size]."""

    is_sliding = False

    def __init__(self, plan: WritePlan) -> None:
        super().__init__()
        self._plan = plan

    def lazy_initialization(
        self, key_states: torch.Tensor, value_states: torch.Tensor | None = None
    ) -> None:
        """Allocate; the shapes are known only when the first states arrive."""
        assert value_states is not None
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states where the plan says; views of all that attention may read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        plan = self._plan
        if plan.column_index is not None:
            place = (plan.rows_index, slice(None), plan.column_index)
            self.keys[place] = key_states[:, :, 0]
            self.values[place] = value_states[:, :, 0]
        else:
            rows = slice(plan.first_row, plan.last_row)
            self.keys[rows, :, plan.start : plan.columns] = key_states
            self.values[rows, :, plan.start : plan.columns] = value_states
        rows = slice(plan.first_row, plan.last_row)
        return self.keys[rows, :, : plan.columns], self.values[rows, :, : plan.columns]

    def grow(self, rows: int, columns: int) -> None:
        """Move into larger buffers, taking the first `rows` rows and `columns` columns along."""
        if self.is_initialized:
            self.keys = self._grown(self.keys, rows, columns)
            self.values = self._grown(self.values, rows, columns)

    def move(self, source: int, target: int, columns: int) -> None:
        """Copy a row's columns over another row's."""
        if self.is_initialized:
            self.keys[target, :, :columns] = self.keys[source, :, :columns]
            self.values[target, :, :columns] = self.values[source, :, :columns]

    def release(self) -> None:
        """Give the memory back."""
        self.is_initialized = False
        self.keys = self.values = None

    def get_mask_sizes(self, *_: Any) -> tuple[int, int]:
        return self._plan.columns, 0

    def get_seq_length(self, *_: Any) -> int:
        return self._plan.start

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.20

    def _allocate(self, states: torch.Tensor) -> torch.Tensor:
        plan = self._plan
        _, heads, _, size = states.shape
        # Zeros, since attention multiplies what it masks by nothing, and nothing times NaN is NaN.
        return states.new_zeros(plan.row_capacity, heads, plan.column_capacity, size)

    def _grown(self, buffer: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        larger = self._allocate(buffer)
        larger[:rows, :, :columns] = buffer[:rows, :, :columns]
        return larger


class SlotCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """All layers' buffers, the rows' lengths, and the plan for the next forward pass."""

    def __init__(self, layers: int, max_rows: int, max_columns: int) -> None:
        self.plan = WritePlan()
        self.lengths: list[int] = []
        """Tokens each row holds; committed by the caller once a forward pass succeeded."""
        self._slots = [SlotLayer(self.plan) for _ in range(layers)]
        super().__init__(layers=list(self._slots))
        self._max_rows = max_rows
        self._max_columns = max_columns

    def plan_prefill(self, first_row: int, rows: int, start: int, end: int) -> None:
        """The next pass writes columns start..end of `rows` rows."""
        self._reserve(first_row + rows, end)
        plan = self.plan
        plan.first_row, plan.last_row = first_row, first_row + rows
        plan.start, plan.columns = start, end
        plan.rows_index = plan.column_index = None

    def plan_decode(self, rows: int, device: torch.device) -> torch.Tensor:
        """The next pass writes one column of each of the first rows; the columns' tensor."""
        positions = self.lengths[:rows]
        columns = max(positions) + 1
        self._reserve(rows, columns)
        plan = self.plan
        plan.first_row, plan.last_row = 0, rows
        plan.start, plan.columns = columns - 1, columns
        plan.rows_index = torch.arange(rows, device=device)
        plan.column_index = torch.tensor(positions, device=device)
        return plan.column_index

    def move(self, source: int, target: int) -> None:
        """Copy a row over another, in every layer."""
        self.lengths[target] = self.lengths[source]
        for layer in self._slots:
            layer.move(source, target, self.lengths[source])

    def release(self) -> None:
        """Give all memory back."""
        self.lengths.clear()
        self.plan.row_capacity = self.plan.column_capacity = 0
        for layer in self._slots:
            layer.release()

    def _reserve(self, rows: int, columns: int) -> None:
        plan = self.plan
        before = plan.row_capacity, plan.column_capacity
        if rows <= before[0] and columns <= before[1]:
            return
        plan.row_capacity = _grown_to(rows, before[0], self._max_rows)
        plan.column_capacity = _grown_to(max(columns, MIN_COLUMNS), before[1], self._max_columns)
        used = min(len(self.lengths), before[0]), max(self.lengths, default=0)
        try:
            for layer in self._slots:
                layer.grow(*used)
        except BaseException:
            plan.row_capacity, plan.column_capacity = before
            raise


def _grown_to(needed: int, capacity: int, most: int) -> int:
    """`needed`, doubled up from `capacity`, so that growing costs little in the long run."""
    grown = max(capacity, 1)
    while grown < needed:
        grown *= 2
    return max(needed, min(grown, most))
