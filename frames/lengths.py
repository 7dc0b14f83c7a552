"""Sequences in groups of like length, for an encoder that should not read padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def by_length(lengths: np.ndarray, positions: int, most: int | None = None) -> Iterator[np.ndarray]:
    """Divides sequences into groups of like length.

    Args:
        lengths: ``[N]`` pieces of each, or what else a sequence costs once its group is padded to the longest.
        positions: pieces and padding of a group at most, unless one sequence has more.
        most: sequences of a group at most, None for any number.

    Yields:
        Places in ``lengths`` of a group's sequences, the shortest first.
    """
    order = np.argsort(lengths, kind="stable")
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or end - begin == most or (end + 1 - begin) * lengths[order[end]] > positions:
            yield order[begin:end]
            begin = end
