"""The torch side of :class:`parsers.raf.parser.RAFBackend`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parsers.nar import Encoded
from parsers.raf.model import RAF
from parsers.raf.parser import ScenarioTable
from parsers.torch_backend import TorchBackend
from retrieval.glosses import Glosses


class RAFTorchBackend(TorchBackend):
    """Runs retrieval and filling beside what :class:`parsers.torch_backend.TorchBackend` runs.

    Args:
        model: the parser's module.
        glosses: of the bank, read again for every candidate by a model that fills together.
    """

    model: RAF

    def __init__(self, model: RAF, glosses: Glosses) -> None:
        super().__init__(model)
        self.glosses = glosses

    def query(self, memory: Tensor, mask: np.ndarray) -> np.ndarray:
        """See :class:`parsers.raf.parser.RAFBackend`."""
        with self.evaluating():
            return self.model.query(memory, self._mask(mask)).float().cpu().numpy()

    def fill(self, encoded: Encoded, rows: np.ndarray, places: np.ndarray, table: ScenarioTable) -> np.ndarray:
        """See :class:`parsers.raf.parser.RAFBackend`."""
        mask = self._mask(encoded.mask[rows])
        with self.evaluating():
            if self.model.fills_together:
                gloss = self.glosses.batch(places)
                scores = self.model.fill_together(
                    self._tensor(encoded.pieces[rows]),
                    mask,
                    *map(self._tensor, (gloss.pieces, gloss.mask, gloss.leaves)),
                )
            else:
                leaves, leaf_mask = table.of(places)
                memory = torch.as_tensor(encoded.memory)[self._tensor(rows)]
                scores = self.model.fill(memory, mask, self._tensor(leaves), self._mask(leaf_mask))
            return scores.float().cpu().numpy()
