"""How far two domains lie apart: Jensen-Shannon divergence of their subword unigrams (Desai et al. 2019, section 2)."""

from __future__ import annotations

import numpy as np


def unigrams(pieces: np.ndarray, vocabulary: int) -> np.ndarray:
    """Share of each piece ``[vocabulary]`` among the ids ``[N]`` of all pieces of a corpus."""
    counts = np.bincount(pieces, minlength=vocabulary).astype(np.float64)
    return counts / counts.sum()


def jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    """Divergence of two distributions ``[N]`` in bits: 0 where they are equal, 1 where they share nothing."""
    mean = (one + other) / 2
    return float((_relative_entropy(one, mean) + _relative_entropy(other, mean)) / 2)


def _relative_entropy(one: np.ndarray, other: np.ndarray) -> float:
    seen = one > 0
    return float((one[seen] * np.log2(one[seen] / other[seen])).sum())
