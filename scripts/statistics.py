"""Means over seeds with confidence intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

#: 0.975 quantiles of Student's t by degrees of freedom, from 1.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the half-width of its 95% confidence interval by Student's t; None for the width of a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    degrees = len(values) - 1
    quantile = T_975[degrees - 1] if degrees <= len(T_975) else 1.96
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))
