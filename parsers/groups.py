"""Utterances parsed in groups of like length, so that little of a batch is padding."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from frames.lengths import by_length
from frames.tokenization import Source

#: Utterances of a group at most.
SIZE = 32
#: Pairs of pieces of a group at most, unless one utterance has more: scores of spans, and attention, take memory for each.
#: As many as a whole group of utterances of 80 pieces has, which is longer than any of TOPv2.
PAIRS = SIZE * 80**2

T = TypeVar("T")


def in_groups(
    sources: Sequence[Source], work: Callable[[list[Source]], list[T]], workers: int = 1, size: int = SIZE
) -> list[T]:
    """Does ``work`` for groups of utterances.

    Args:
        sources: the utterances.
        work: gives one result for each utterance of a group.
        workers: threads that work on groups side by side; more than one pays where ``work`` leaves the interpreter to
            the others most of the time.
        size: utterances of a group at most.

    Returns:
        The results in the order of ``sources``.
    """
    pairs = np.array([len(source) ** 2 for source in sources])
    places = [group.tolist() for group in by_length(pairs, PAIRS, size)]
    groups = [[sources[i] for i in group] for group in places]
    if workers > 1 and len(groups) > 1:
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(work, groups))
    else:
        found = [work(group) for group in groups]
    results = [result for of_group in found for result in of_group]
    by_place = dict(zip(itertools.chain(*places), results, strict=True))
    return [by_place[i] for i in range(len(sources))]


def pad(sources: Sequence[Source], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Piece ids ``[B, S]`` and their mask, True at pieces."""
    width = max(len(source) for source in sources)
    pieces = np.full((len(sources), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(sources), width), dtype=bool)
    for row, source in enumerate(sources):
        pieces[row, : len(source)] = source.ids
        mask[row, : len(source)] = True
    return pieces, mask
