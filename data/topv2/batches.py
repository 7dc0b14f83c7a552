"""Length-bucketed batches, built by array indexing alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Label of padded target positions, the value that torch losses ignore.
PAD_TARGET = -100


class EncodedCorpus:
    """Sources and targets as flat arrays with offsets.

    Args:
        sources: piece ids of each row.
        targets: target ids of each row (see :class:`data.topv2.linearization.TargetIds`).
        pad_id: piece id that pads.
    """

    def __init__(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], pad_id: int) -> None:
        self.source, self.source_ends = _flatten(sources)
        self.target, self.target_ends = _flatten(targets)
        self.source_lengths = np.diff(self.source_ends, prepend=0)
        self.target_lengths = np.diff(self.target_ends, prepend=0)
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.source_lengths)

    def batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        """The rows as padded tensors.

        Returns:
            ``pieces [B, S]``, ``piece_mask [B, S]`` (bool), ``targets [B, T]`` (:data:`PAD_TARGET` after the end),
            ``lengths [B]``, ``rows [B]``.
        """
        pieces, mask = _gather(self.source, self.source_ends, self.source_lengths, rows, self.pad_id)
        targets, _ = _gather(self.target, self.target_ends, self.target_lengths, rows, PAD_TARGET)
        return {
            "pieces": torch.from_numpy(pieces),
            "piece_mask": torch.from_numpy(mask),
            "targets": torch.from_numpy(targets),
            "lengths": torch.from_numpy(self.target_lengths[rows]),
            "rows": torch.from_numpy(rows),
        }


class BatchStream:
    """An endless-by-epoch iterable of batches that a killed training can take up again at the same batch.

    Rows of like lengths share a batch; which rows, and the order of batches, is drawn anew each epoch from
    ``(seed, epoch)`` alone. Lightning stores :meth:`state_dict` in its checkpoints.

    Args:
        corpus: the rows.
        batch_size: rows in a batch.
        seed: of the order.
        shuffle: False gives the same order, by length, at every pass.
        rank: this process's number among ``world`` under DDP.
        world: number of processes; each gets as many batches as the others.
    """

    def __init__(
        self, corpus: EncodedCorpus, batch_size: int, seed: int = 0, shuffle: bool = True, rank: int = 0, world: int = 1
    ) -> None:
        self.corpus, self.batch_size, self.seed, self.shuffle = corpus, batch_size, seed, shuffle
        self.rank, self.world = rank, world
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        total = -(-len(self.corpus) // self.batch_size)
        return total // self.world if self.shuffle else -(-(total - self.rank) // self.world)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # A caller that knows the length never asks past the last batch, so an epoch is closed when the next begins.
        if self.position >= len(self):
            self.position = 0
            self.epoch += 1
        batches = self._batches()
        for rows in batches[self.position :]:
            self.position += 1
            yield self.corpus.batch(rows)

    def _batches(self) -> list[np.ndarray]:
        corpus = self.corpus
        rng = np.random.default_rng((self.seed, self.epoch))
        noise = rng.random(len(corpus)) if self.shuffle else np.arange(len(corpus))
        # Targets come in few lengths and sources in many, so grouping by target first leaves the least padding.
        order = np.lexsort((noise, corpus.source_lengths, corpus.target_lengths))
        batches = np.split(order, range(self.batch_size, len(order), self.batch_size))
        if self.shuffle:
            batches = [batches[i] for i in rng.permutation(len(batches))]
            batches = batches[: len(batches) - len(batches) % self.world]
        return batches[self.rank :: self.world]

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batch to continue from."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where :meth:`state_dict` was called."""
        self.epoch, self.position = state["epoch"], state["position"]

    def padding(self) -> float:
        """Share of token places, pieces and targets together, that one epoch spends on padding."""
        used = int(self.corpus.source_lengths.sum() + self.corpus.target_lengths.sum())
        spent = sum(
            len(rows) * int(self.corpus.source_lengths[rows].max() + self.corpus.target_lengths[rows].max())
            for rows in self._batches()
        )
        return 1 - used / spent


def _flatten(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    flat = np.fromiter((value for row in rows for value in row), dtype=np.int64, count=int(lengths.sum()))
    return flat, lengths.cumsum()


def _gather(
    flat: np.ndarray, ends: np.ndarray, lengths: np.ndarray, rows: np.ndarray, pad: int
) -> tuple[np.ndarray, np.ndarray]:
    sizes = lengths[rows]
    steps = np.arange(sizes.max())
    mask = steps[None, :] < sizes[:, None]
    starts = ends[rows] - sizes
    places = np.minimum(starts[:, None] + steps[None, :], len(flat) - 1)
    return np.where(mask, flat[places], pad), mask
