"""Losses over log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def smoothed_nll(log_probs: Tensor, target: Tensor, smoothing: float, allowed: Tensor | None = None) -> Tensor:
    """Negative log-likelihood with uniform label smoothing (Szegedy et al. 2016).

    Args:
        log_probs: ``[N, K]``.
        target: ``[N]`` class ids.
        smoothing: mass spread evenly over the allowed classes.
        allowed: ``[N, K]`` True at classes that exist for the row (a padded piece does not); None for all.

    Returns:
        ``[N]``.
    """
    nll = -log_probs.gather(1, target[:, None])[:, 0]
    if smoothing == 0:
        return nll
    if allowed is None:
        uniform = -log_probs.mean(dim=1)
    else:
        uniform = -torch.where(allowed, log_probs, log_probs.new_zeros(())).sum(dim=1) / allowed.sum(dim=1)
    return (1 - smoothing) * nll + smoothing * uniform


def symmetric_divergence(one: Tensor, other: Tensor) -> Tensor:
    """Kullback-Leibler divergence in both directions between log-probabilities ``[N, K]``; ``[N]``."""
    there = F.kl_div(other, one, log_target=True, reduction="none").sum(dim=1)
    back = F.kl_div(one, other, log_target=True, reduction="none").sum(dim=1)
    return there + back
