"""The torch side of :class:`parsers.raf.parser.RAFBackend`."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from parsers.raf.model import RAF
from parsers.torch_backend import TorchBackend


class RAFTorchBackend(TorchBackend):
    """Runs retrieval and filling beside what :class:`parsers.torch_backend.TorchBackend` runs.

    Args:
        model: the parser's module.
    """

    model: RAF

    def query(self, memory: Tensor, mask: np.ndarray) -> np.ndarray:
        """See :class:`parsers.raf.parser.RAFBackend`."""
        with self.evaluating():
            return self.model.query(memory, self._mask(mask)).float().cpu().numpy()

    def fill(
        self, memory: Tensor, rows: np.ndarray, mask: np.ndarray, leaves: np.ndarray, leaf_mask: np.ndarray
    ) -> np.ndarray:
        """See :class:`parsers.raf.parser.RAFBackend`."""
        with self.evaluating():
            chosen = self._tensor(rows)
            scores = self.model.fill(
                memory[chosen], self._mask(mask[rows]), self._tensor(leaves), self._mask(leaf_mask)
            )
            return scores.float().cpu().numpy()
