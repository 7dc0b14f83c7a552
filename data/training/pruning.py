"""Leaving out, in each epoch, a part of the rows that the parser already knows (InfoBatch, Qin et al. 2024)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class Pruning:
    """Which rows an epoch may do without, and how much more the others of their kind count.

    A row whose last loss is below the mean is left out with probability ``share``; those of them that stay count
    ``1 / (1 - share)`` times, so that the expected gradient is that of all rows (Qin et al. 2024, arXiv
    2303.04947). The last epochs see every row.

    Args:
        rows: number of rows.
        share: see above, at least 0 and below 1.
        whole_from: number of the first epoch that sees every row again.

    Raises:
        ValueError: the share is not one.
    """

    def __init__(self, rows: int, share: float, whole_from: float) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"pruned {share}: at least 0, below 1")
        self.share, self.whole_from = share, whole_from
        self._losses = np.full(rows, np.nan, dtype=np.float32)
        # An epoch is drawn from the losses as they were when it began, or it could not be drawn again on resuming.
        self._known = self._losses.copy()

    def begin(self) -> None:
        """An epoch begins, with all losses recorded so far."""
        self._known = self._losses.copy()

    def record(self, rows: Tensor, losses: Tensor) -> None:
        """The losses ``[B]`` of rows ``[B]`` in the step just taken."""
        self._losses[rows.cpu().numpy()] = losses.detach().float().cpu().numpy()

    def drawn(self, rng: np.random.Generator, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Whether each row is kept in an epoch, and how much it counts, both ``[rows]``."""
        kept, weights = np.ones(len(self._known), dtype=bool), np.ones(len(self._known), dtype=np.float32)
        known = self._known[~np.isnan(self._known)]
        if epoch < self.whole_from and len(known):
            # A row that was not seen yet compares as False, which keeps it.
            easy = self._known < known.mean()
            kept = ~(easy & (rng.random(len(kept)) < self.share))
            weights[easy] = 1 / (1 - self.share)
        return kept, weights

    def state_dict(self) -> dict[str, Any]:
        """The losses, now and when the epoch began."""
        return {"losses": torch.from_numpy(self._losses.copy()), "known": torch.from_numpy(self._known.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._losses, self._known = state["losses"].numpy().copy(), state["known"].numpy().copy()
