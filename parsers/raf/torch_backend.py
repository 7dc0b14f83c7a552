"""The torch side of :class:`parsers.raf.parser.RAFBackend`."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from parsers.nar import Encoded
from parsers.raf.model import RAF
from parsers.torch_backend import TorchBackend
from retrieval.glosses import Glosses
from retrieval.table import ScenarioTable


class RAFTorchBackend(TorchBackend):
    """Runs retrieval and filling, beside what :class:`parsers.torch_backend.TorchBackend` runs.

    Args:
        model: the parser's module.
        glosses: of the bank, for a model that encodes utterance and scenario together.
    """

    model: RAF

    def __init__(self, model: RAF, glosses: Glosses) -> None:
        super().__init__(model)
        self.glosses = glosses

    def query(self, memory: Tensor, mask: np.ndarray) -> np.ndarray:
        """See :class:`parsers.raf.parser.RAFBackend`."""
        with self.evaluating():
            return self.model.query(memory, self._mask(mask)).float().cpu().numpy()

    def fill(self, encoded: Encoded, rows: np.ndarray, scenario_ids: np.ndarray, table: ScenarioTable) -> np.ndarray:
        """See :class:`parsers.raf.parser.RAFBackend`."""

        def leaf_states(scenario_ids: np.ndarray) -> tuple[Tensor, Tensor]:
            leaves, leaf_mask = table.leaf_states(scenario_ids)
            return self._tensor(leaves), self._tensor(leaf_mask)

        with self.evaluating():
            scores, _ = self.model.fill_scenarios(
                encoded.memory[self._tensor(rows)],
                self._tensor(encoded.pieces[rows]),
                self._mask(encoded.mask[rows]),
                scenario_ids,
                self.glosses,
                leaf_states,
            )
            return scores.float().cpu().numpy()
