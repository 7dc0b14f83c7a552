"""int8 numbers with scales, by numpy alone: what files hold in place of fp32."""

from __future__ import annotations

import numpy as np


def rounded(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 values, and the fp32 scales that turn them back, of which there is one for all numbers along ``axis``."""
    largest = np.abs(values).max(axis=axis, keepdims=True, initial=0.0).astype(np.float32)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(values / scales).astype(np.int8), scales
