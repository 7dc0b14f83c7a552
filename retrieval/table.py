"""A bank as an encoder has encoded it: the index of its scenarios and the states of their leaves."""

from __future__ import annotations

import numpy as np

from retrieval.bank import ScenarioBank
from retrieval.index import ScenarioIndex
from retrieval.scenario import Scenario


class LeafRows:
    """Row numbers of each scenario's leaves in an array that holds the leaves of a whole bank, scenario after scenario.

    Args:
        counts: leaves of each scenario ``[N]``.
    """

    def __init__(self, counts: np.ndarray) -> None:
        self.counts = counts
        self._ends = counts.cumsum()

    @property
    def total(self) -> int:
        """Leaves of the whole bank."""
        return int(self.counts.sum())

    def row_indices(self, scenario_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the leaves of some scenarios.

        Args:
            scenario_ids: ``[N]`` positions in the bank.

        Returns:
            Rows ``[N, L]`` and a mask ``[N, L]``, True at leaves; ``L`` is at least 1.
        """
        counts = self.counts[scenario_ids]
        steps = np.arange(max(1, int(counts.max())))
        rows = (self._ends[scenario_ids] - counts)[:, None] + steps[None, :]
        return np.minimum(rows, max(0, int(self._ends[-1]) - 1)), steps[None, :] < counts[:, None]


class ScenarioTable:
    """A bank as an encoder has encoded it.

    Args:
        bank: the scenarios.
        index: their vectors.
        scale: factor of inner products.
        leaves: states of all leaves of all scenarios, in the order of the bank, ``[leaves, W]``.
    """

    def __init__(self, bank: ScenarioBank, index: ScenarioIndex, scale: float, leaves: np.ndarray) -> None:
        self.bank, self.index, self.scale, self.leaves = bank, index, scale, leaves
        self.leaf_rows = LeafRows(np.array([scenario.leaves for scenario in bank], dtype=np.int64))

    def added(self, new: ScenarioBank, vectors: np.ndarray, leaves: np.ndarray) -> ScenarioTable:
        """This table and further scenarios.

        Args:
            new: scenarios that the bank does not have.
            vectors: ``[N, D]``, by the encoder that encoded the others.
            leaves: states of their leaves ``[leaves, W]``.
        """
        bank = self.bank.added(new)
        index = self.index.added(vectors, bank.digest)
        return ScenarioTable(bank, index, self.scale, np.concatenate((self.leaves, leaves.astype(self.leaves.dtype))))

    def removed(self, scenario: Scenario) -> ScenarioTable:
        """This table without a scenario.

        Raises:
            UsageError: the bank does not have it or has no other, or the index cannot remove vectors.
        """
        bank, scenario_id = self.bank.removed(scenario), self.bank.id(scenario)
        assert scenario_id is not None
        rows, mask = self.leaf_rows.row_indices(np.array([scenario_id]))
        index = self.index.removed(scenario_id, bank.digest)
        return ScenarioTable(bank, index, self.scale, np.delete(self.leaves, rows[mask], axis=0))

    def leaf_states(self, scenario_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """States of the leaves of some scenarios.

        Args:
            scenario_ids: ``[N]`` positions in the bank.

        Returns:
            States ``[N, L, W]`` (float32) and a mask ``[N, L]``, True at leaves; ``L`` is at least 1.
        """
        rows, mask = self.leaf_rows.row_indices(scenario_ids)
        if not len(self.leaves):
            return np.zeros((*rows.shape, self.leaves.shape[1]), np.float32), mask
        return self.leaves[rows].astype(np.float32, copy=False), mask
