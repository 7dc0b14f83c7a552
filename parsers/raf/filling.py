"""The best spans of a scenario's leaves."""

from __future__ import annotations

import numpy as np

#: Score of a span that is not allowed.
NEVER = -1e30


def best_spans(
    scores: np.ndarray, leaves: np.ndarray, firsts: np.ndarray, lasts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The highest-scoring spans of each scenario's leaves, in order and without overlap, as in a frame.

    Exact, by dynamic programming over leaves and the pieces at which they end.

    Args:
        scores: ``[N, L, S, S]`` log-probability of each leaf's first and last piece.
        leaves: ``[N]`` leaves of each scenario.
        firsts: ``[N, S]``, True where a leaf may begin.
        lasts: ``[N, S]``, True where a leaf may end.

    Returns:
        First and last pieces ``[N, L, 2]`` (0 after the last leaf) and the summed scores ``[N]``, below half of
        :data:`NEVER` where the utterance has too few words for the leaves.
    """
    count, longest, size, _ = scores.shape
    rows = np.arange(count)
    allowed = firsts[:, :, None] & lasts[:, None, :] & np.triu(np.ones((size, size), dtype=bool))  # [N, S, S]
    # reach[l][n, e]: the best sum of l leaves that all end before piece e.
    reach = [np.zeros((count, size + 1))]
    begins, ends = [], []
    for leaf in range(longest):
        values = np.where(allowed, scores[:, leaf] + reach[-1][:, :size, None], NEVER)  # [N, S first, S last]
        begin = values.argmax(axis=1)  # [N, S last]
        value = np.take_along_axis(values, begin[:, None, :], axis=1)[:, 0]  # [N, S last]
        padded = np.concatenate((np.full((count, 1), NEVER), value), axis=1)  # [N, S + 1]
        best = np.maximum.accumulate(padded, axis=1)  # [N, S + 1]
        # The best end up to a piece is the last one at which the running maximum rose.
        rose = np.concatenate((np.zeros((count, 1), dtype=bool), padded[:, 1:] > best[:, :-1]), axis=1)  # [N, S + 1]
        begins.append(begin)
        ends.append(np.maximum.accumulate(np.where(rose, np.arange(size + 1), 0), axis=1) - 1)
        reach.append(best)
    spans = np.zeros((count, longest, 2), dtype=np.int64)
    limit = np.full(count, size)
    for leaf in range(longest - 1, -1, -1):
        has = leaf < leaves
        end = np.maximum(ends[leaf][rows, limit], 0)
        begin = begins[leaf][rows, end]
        spans[has, leaf, 0], spans[has, leaf, 1] = begin[has], end[has]
        limit = np.where(has, begin, limit)
    totals = np.stack(reach)[leaves, rows, size]  # [N]
    return spans, np.maximum(totals, NEVER)
