"""Hiding pieces of training utterances, so that a parser cannot know a row by one of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class PieceDropout:
    """Reads pieces as the tokenizer's mask, each with a probability of its own (word dropout, Gal and Ghahramani 2016).

    Targets stay as they are: a span points at a hidden piece as it would at the piece.

    Args:
        p: probability, at least 0 and below 1.
        mask_id: piece id that stands for a hidden piece.

    Raises:
        ValueError: ``p`` is not such a probability.
    """

    def __init__(self, p: float, mask_id: int) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"piece_dropout {p}: at least 0, below 1")
        self.p, self.mask_id = p, mask_id

    def __call__(self, pieces: Tensor, mask: Tensor | None, rng: np.random.Generator) -> Tensor:
        """Ids ``[B, S]`` with some of them hidden; ``mask`` ``[B, S]`` is True at pieces, None without padding."""
        hidden = torch.from_numpy(rng.random(tuple(pieces.shape), dtype=np.float32) < self.p)
        return pieces.masked_fill(hidden if mask is None else hidden & mask, self.mask_id)
