"""Mask-predict: decide all positions, hide the least certain, decide those again (Ghazvininejad et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Input id of a target position whose token the decoder does not see.
MASKED = -1


def refine(score: Callable[[np.ndarray], np.ndarray], lengths: np.ndarray, passes: int) -> np.ndarray:
    """Scores of all positions after a number of passes.

    Pass ``p`` of ``P`` hides the ``T * (P - p) / P`` positions whose token was least probable and scores them
    given the others; positions left in sight keep the scores they had.

    Args:
        score: target ids ``[B, T]`` to log-probabilities ``[B, T, K]``.
        lengths: ``[B]`` tokens of each target.
        passes: 1 decides everything at once.

    Returns:
        Log-probabilities ``[B, T, K]``.
    """
    tokens = np.full((len(lengths), int(lengths.max())), MASKED, dtype=np.int64)
    scores = score(tokens)
    steps = np.arange(tokens.shape[1])
    for done in range(1, passes):
        best = scores.argmax(-1)
        certainty = np.where(steps[None, :] < lengths[:, None], scores.max(-1), np.inf)
        hidden = np.floor(lengths * (passes - done) / passes).astype(np.int64)
        rank = certainty.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        hide = rank < hidden[:, None]
        scores = np.where(hide[:, :, None], score(np.where(hide, MASKED, best)), scores)
    return scores
