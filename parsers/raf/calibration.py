"""Weights of retrieval, filling and composition, and when to leave the bank: learned on rows with gold frames.

Only a handful of numbers is learned, by search over a grid, on candidates that have been found already; so hundreds of
settings cost less than one parse of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from parsers.raf.parser import Candidate, RAFDecodingConfig

#: Settings tried: weights of filling and composition relative to retrieval's, the rescorer's share in composition, and
#: what leaving the bank costs.
FILL = (0.0, 0.25, 0.5, 1.0, 2.0)
COMPOSE = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0)
RESCORING_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
LEAVE = tuple(np.round(np.arange(-12.0, 0.5, 0.5), 1).tolist())


def calibrate(
    candidates: Sequence[Sequence[Candidate]], exact: Sequence[Sequence[bool]], config: RAFDecodingConfig
) -> tuple[RAFDecodingConfig, float]:
    """The setting that makes most rows exact.

    Args:
        candidates: of each row, as :meth:`parsers.raf.parser.RAFParser.candidates` gives them.
        exact: whether each is the gold frame.
        config: what stays as it is; a ``compose_weight`` of 0 stays 0, and a ``rescoring_weight`` of 1, with which the
            decoder does not judge at all, stays 1.

    Returns:
        The config with the weights found, and its share of exact rows.

    Raises:
        ValueError: there are no rows.
    """
    if not candidates:
        raise ValueError("no rows to calibrate on")
    width = max(len(row) for row in candidates)
    shape = (len(candidates), width)
    tables = {name: np.full(shape, np.nan) for name in ("retrieval", "fill", "composed", "judged")}
    right = np.zeros(shape, dtype=bool)
    there = np.zeros(shape, dtype=bool)
    for i, row in enumerate(candidates):
        for j, candidate in enumerate(row):
            there[i, j], right[i, j] = True, exact[i][j]
            for name, table in tables.items():
                value = getattr(candidate, name)
                table[i, j] = np.nan if value is None else value
    rows = np.arange(len(candidates))
    mixed = config.rescored and config.rescoring_weight < 1
    best, found = -1.0, config
    for judge, fill, compose in product(
        RESCORING_WEIGHTS if mixed else (config.rescoring_weight,), FILL, COMPOSE if config.compose_weight else (0.0,)
    ):
        banked = tables["retrieval"] + fill * tables["fill"]
        composed = np.where(
            np.isnan(tables["judged"]), tables["composed"],
            np.where(np.isnan(tables["composed"]), tables["judged"],
                     (1 - judge) * tables["composed"] + judge * tables["judged"]),
        )  # fmt: skip
        for leave in LEAVE if config.compositions else (config.leave_score,):
            own = np.where(np.isnan(banked), leave, banked)
            total = own + compose * np.where(np.isnan(composed), own, composed)
            share = float(right[rows, np.where(there, total, -np.inf).argmax(axis=1)].mean())
            if share > best:
                best = share
                found = replace(
                    config,
                    retrieval_weight=1.0,
                    fill_weight=fill,
                    compose_weight=compose,
                    rescoring_weight=judge,
                    leave_score=leave,
                )
    return found, best
