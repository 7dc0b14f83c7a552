"""Glosses of a bank as pieces, the input of an encoder."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from frames.lengths import by_length
from frames.tokenization import PieceTokenizer
from retrieval.bank import ScenarioBank


class GlossBatch(NamedTuple):
    """Some scenarios of a bank.

    Attributes:
        pieces: ``[N, G]`` piece ids.
        mask: ``[N, G]``, True at pieces.
        leaves: ``[N, L]`` piece of each leaf, 0 after the last.
        leaf_mask: ``[N, L]``, True at leaves; ``L`` is at least 1.
    """

    pieces: np.ndarray
    mask: np.ndarray
    leaves: np.ndarray
    leaf_mask: np.ndarray


class Glosses:
    """The glosses of a bank, tokenized.

    Args:
        bank: the scenarios.
        tokenizer: of the encoder.
        style: a name in :data:`retrieval.scenario.STYLES`.
    """

    def __init__(self, bank: ScenarioBank, tokenizer: PieceTokenizer, style: str) -> None:
        glosses = [scenario.gloss(style) for scenario in bank]
        sources = tokenizer.batch([gloss.text for gloss in glosses])
        self.pad_id = tokenizer.pad_id
        self._pieces = [source.ids for source in sources]
        self._leaves = [
            [bisect_left(source.starts, leaf) for leaf in gloss.leaves]
            for gloss, source in zip(glosses, sources, strict=True)
        ]
        self._lengths = np.array([len(pieces) for pieces in self._pieces], dtype=np.int64)
        #: Leaves of each scenario ``[N]``.
        self.leaf_counts = np.array([len(leaves) for leaves in self._leaves], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._pieces)

    def batch(self, scenario_ids: np.ndarray) -> GlossBatch:
        """The scenarios at these positions of the bank ``[N]``."""
        pieces, mask = _padded([self._pieces[i] for i in scenario_ids.tolist()], self.pad_id)
        leaves, leaf_mask = _padded([self._leaves[i] for i in scenario_ids.tolist()], 0)
        return GlossBatch(pieces, mask, leaves, leaf_mask)

    def groups(self, scenario_ids: np.ndarray, max_tokens: int) -> Iterator[tuple[np.ndarray, GlossBatch]]:
        """These scenarios in groups of like length, so that an encoder computes little padding.

        Args:
            scenario_ids: ``[N]`` positions in the bank.
            max_tokens: pieces and padding of a group, at most, unless one scenario has more.

        Yields:
            The scenario ids of a group, shortest gloss first, and its batch.
        """
        for group in by_length(self._lengths[scenario_ids], max_tokens):
            yield scenario_ids[group], self.batch(scenario_ids[group])


def _padded(rows: list, value: int) -> tuple[np.ndarray, np.ndarray]:
    width = max(1, *(len(row) for row in rows))
    padded = np.full((len(rows), width), value, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=bool)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
        mask[i, : len(row)] = True
    return padded, mask
