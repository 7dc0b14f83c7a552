"""Length-bucketed batches, built by array indexing alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

#: Fewest rows that are decoded by themselves.
GROUP = 16
#: Label of padded target positions, the value that torch losses ignore.
PAD_TARGET = -100


class Batch(NamedTuple):
    """Rows of about one source length and of all target lengths.

    Every batch holds short and long targets as the corpus does, or the length module would be pulled to another
    length at every step; and targets are split by length, so that they are decoded with next to no padding.

    Attributes:
        pieces: ``[B, S]`` piece ids.
        mask: ``[B, S]`` True at pieces, None when no row is padded.
        lengths: ``[B]`` lengths of the targets, ascending.
        targets: consecutive groups of the rows, ``[G, T]`` each, :data:`PAD_TARGET` after the end.
        target_masks: for each group ``[G, T]``, True at tokens, None where nothing is padded.
        scenarios: ``[B]`` index of each row's scenario in the bank, None for a corpus without a bank.
    """

    pieces: Tensor
    mask: Tensor | None
    lengths: Tensor
    targets: list[Tensor]
    target_masks: list[Tensor | None]
    scenarios: Tensor | None = None


class EncodedCorpus:
    """Sources and targets as flat arrays with offsets.

    Args:
        sources: piece ids of each row.
        targets: target ids of each row (see :class:`frames.linearization.TargetIds`).
        pad_id: piece id that pads.
        variants: how many variants each row of the corpus has. They follow the rows themselves, those of one row
            together; None for none.
        scenarios: index in the scenario bank of each row and each variant; None without a bank.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        pad_id: int,
        variants: Sequence[int] | None = None,
        scenarios: Sequence[int] | None = None,
    ) -> None:
        self.source, self.source_ends = _flatten(sources)
        self.target, self.target_ends = _flatten(targets)
        self.source_lengths = np.diff(self.source_ends, prepend=0)
        self.target_lengths = np.diff(self.target_ends, prepend=0)
        self.pad_id = pad_id
        self.scenarios = None if scenarios is None else np.array(scenarios, dtype=np.int64)
        self.variants = np.array(variants if variants is not None else [0] * len(sources), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.variants)

    def choose_variants(self, rng: np.random.Generator, share: float) -> np.ndarray:
        """One number for each row ``[len(self)]``: its own, or with probability ``share`` that of a variant it has."""
        rows = np.arange(len(self))
        if share == 0 or not self.variants.any():
            return rows
        chosen = len(self) + self.variants.cumsum() - 1 - (rng.random(len(self)) * self.variants).astype(np.int64)
        return np.where((rng.random(len(self)) < share) & (self.variants > 0), chosen, rows)

    def batch(self, rows: np.ndarray) -> Batch:
        """The rows as tensors, sorted by the length of their targets."""
        rows = rows[np.argsort(self.target_lengths[rows], kind="stable")]
        pieces, mask = _gather(self.source, self.source_ends, self.source_lengths, rows, self.pad_id)
        lengths = self.target_lengths[rows]
        parts = groups(lengths)
        targets = [_gather(self.target, self.target_ends, self.target_lengths, rows[p], PAD_TARGET) for p in parts]
        return Batch(
            pieces,
            mask,
            torch.from_numpy(lengths),
            [ids for ids, _ in targets],
            [where for _, where in targets],
            None if self.scenarios is None else torch.from_numpy(self.scenarios[rows]),
        )


class BatchStream:
    """An endless-by-epoch iterable of batches that a killed training can take up again at the same batch.

    Rows of like lengths share a batch; which rows, and the order of batches, is drawn anew each epoch from
    ``(seed, epoch)`` alone. Lightning stores :meth:`state_dict` in its checkpoints.

    Args:
        corpus: the rows.
        batch_size: rows in a batch.
        seed: of the order.
        shuffle: False gives the same order, by length, at every pass.
        augment_prob: probability that a variant stands in for its row (see :meth:`EncodedCorpus.choose_variants`).
        rank: this process's number among ``world`` under DDP.
        world: number of processes; each gets as many batches as the others.
    """

    def __init__(
        self,
        corpus: EncodedCorpus,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        augment_prob: float = 0.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.corpus, self.batch_size, self.seed, self.shuffle = corpus, batch_size, seed, shuffle
        self.augment_prob = augment_prob
        self.rank, self.world = rank, world
        self.epoch = 0
        self.position = 0
        self._taken_up = False

    def __len__(self) -> int:
        total = -(-len(self.corpus) // self.batch_size)
        return total // self.world if self.shuffle else -(-(total - self.rank) // self.world)

    def __iter__(self) -> Iterator[Batch]:
        if self.position and not self._taken_up:
            # The caller ended this epoch early, for instance by limit_train_batches.
            self.position = len(self)
        self._taken_up = False
        self.turn()
        for rows in self._batches()[self.position :]:
            self.position += 1
            yield self.corpus.batch(rows)

    def turn(self) -> None:
        """Goes on to the next epoch if this one is over.

        A caller that knows the length never asks past the last batch, so an epoch is closed when the next begins.
        """
        if self.position >= len(self):
            self.position = 0
            self.epoch += 1

    def _batches(self) -> list[np.ndarray]:
        corpus = self.corpus
        rng = np.random.default_rng((self.seed, self.epoch))
        noise = rng.random(len(corpus)) if self.shuffle else np.arange(len(corpus))
        chosen = corpus.choose_variants(rng, self.augment_prob)
        order = chosen[np.lexsort((noise, corpus.source_lengths[chosen]))]
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
        self.epoch, self.position, self._taken_up = state["epoch"], state["position"], True

    def padding(self) -> float:
        """Share of token places, pieces and targets together, that one epoch spends on padding."""
        used = spent = 0
        for rows in self._batches():
            batch = self.corpus.batch(rows)
            used += int(self.corpus.source_lengths[rows].sum() + batch.lengths.sum())
            spent += batch.pieces.numel() + sum(target.numel() for target in batch.targets)
        return 1 - used / spent


def groups(lengths: np.ndarray) -> list[slice]:
    """Consecutive parts of ascending lengths: one for each length, small ones joined to the next longer."""
    ends = [int(end) for end in np.flatnonzero(np.diff(lengths)) + 1]
    parts: list[slice] = []
    start = 0
    for end in ends:
        if end - start >= GROUP:
            parts.append(slice(start, end))
            start = end
    return [*parts, slice(start, len(lengths))]


def _flatten(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    flat = np.fromiter((value for row in rows for value in row), dtype=np.int64, count=int(lengths.sum()))
    return flat, lengths.cumsum()


def _gather(
    flat: np.ndarray, ends: np.ndarray, lengths: np.ndarray, rows: np.ndarray, pad: int
) -> tuple[Tensor, Tensor | None]:
    sizes = lengths[rows]
    steps = np.arange(sizes.max())
    mask = steps[None, :] < sizes[:, None]
    starts = ends[rows] - sizes
    places = np.minimum(starts[:, None] + steps[None, :], len(flat) - 1)
    values = torch.from_numpy(np.where(mask, flat[places], pad))
    return values, None if mask.all() else torch.from_numpy(mask)
