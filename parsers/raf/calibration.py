"""Weights of retrieval, filling and composition, and the score outside of the bank, searched on rows with gold frames.

A grid search over a handful of numbers, on candidates that have been found already; so hundreds of settings cost less
than one parse of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from parsers.raf.candidate import Candidate, CandidateScores, RAFDecodingConfig, weigh

#: The grid: weights of filling and composition relative to retrieval's, the rescorer's share in composition, and the score
#: of a frame outside of the bank.
FILL_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
COMPOSE_WEIGHTS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0)
RESCORING_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
OUT_OF_BANK_SCORES = tuple(np.round(np.arange(-12.0, 0.5, 0.5), 1).tolist())


def calibrate(
    candidates: Sequence[Sequence[Candidate]], exact: Sequence[Sequence[bool]], config: RAFDecodingConfig
) -> tuple[RAFDecodingConfig, float]:
    """The setting of the grid with the most exact rows.

    Args:
        candidates: of each row, as :meth:`parsers.raf.parser.RAFParser.candidates` gives them.
        exact: whether each is the gold frame.
        config: all other options; a ``compose_weight`` of 0, with which nothing is composed, stays 0, and a ``rescoring_weight`` of 1, with which the
            decoder scores no candidate, stays 1.

    Returns:
        The config with the weights found, and its share of exact rows.

    Raises:
        ValueError: there are no rows.
    """
    if not candidates:
        raise ValueError("no rows to calibrate on")
    scores = CandidateScores.from_candidates(candidates)
    right = np.zeros(scores.retrieval.shape, dtype=bool)
    exists = np.zeros(scores.retrieval.shape, dtype=bool)
    for i, row in enumerate(exact):
        right[i, : len(row)], exists[i, : len(row)] = row, True
    rows = np.arange(len(candidates))
    mixed = config.num_rescored and config.rescoring_weight < 1
    grid = product(
        RESCORING_WEIGHTS if mixed else (config.rescoring_weight,),
        FILL_WEIGHTS,
        COMPOSE_WEIGHTS if config.compose_weight else (0.0,),
        OUT_OF_BANK_SCORES if config.compose_weight else (config.out_of_bank_score,),
    )
    best, found = -1.0, config
    for rescoring_weight, fill_weight, compose_weight, out_of_bank_score in grid:
        setting = replace(
            config,
            rescoring_weight=rescoring_weight,
            fill_weight=fill_weight,
            compose_weight=compose_weight,
            out_of_bank_score=out_of_bank_score,
        )
        chosen = np.where(exists, weigh(scores, setting), -np.inf).argmax(axis=1)
        share = float(right[rows, chosen].mean())
        if share > best:
            best, found = share, setting
    return found, best
