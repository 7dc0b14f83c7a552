"""Keys and values of tokens by their positions, for rows that are not equally far."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RowCache:
    """A key-value cache that the layers of a language model write into and read from.

    The entry of a token stands at its position in its row. So nothing has to be cropped when drafts are refused: later
    tokens at the same positions overwrite them, and until then no token sees them, for it sees only earlier positions.

    Args:
        layers: of the model.
        rows: sequences.
        capacity: positions of each; the last one is scratch space for padding.
        heads: of keys and values.
        width: of a head.
        device: of the tensors.
        dtype: of the tensors.
    """

    def __init__(
        self, layers: int, rows: int, capacity: int, heads: int, width: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.capacity = capacity
        shape = (layers, rows, heads, capacity, width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._rows: Tensor | None = None
        self._positions = torch.zeros(0, dtype=torch.long)
        self._end = 0
        self._consecutive: int | None = None

    def select(self, rows: Tensor | None, positions: Tensor, end: int) -> None:
        """Says which tokens the layers are about to run over.

        Args:
            rows: ``[N]`` rows of the cache; None for all.
            positions: ``[N, T]`` of the tokens.
            end: one past the last position that any of them sees.
        """
        self._rows, self._positions, self._end = rows, positions, end
        # A single row's tokens stand side by side, which needs no index.
        self._consecutive = int(positions[0, 0]) if rows is None and len(positions) == 1 else None

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values ``[N, heads, T, width]`` of the selected tokens; gives those of all positions up to ``end``."""
        found = []
        for store, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if self._consecutive is not None:
                begin = self._consecutive
                store[0, :, begin : begin + new.shape[2]] = new[0].to(store.dtype)
                found.append(store[:, :, : self._end].to(new.dtype))
                continue
            rows = torch.arange(len(new), device=new.device) if self._rows is None else self._rows
            store[rows[:, None], :, self._positions] = new.transpose(1, 2).to(store.dtype)
            seen = store[:, :, : self._end]
            found.append((seen if self._rows is None else seen[rows]).to(new.dtype))
        return found[0], found[1]
