"""Losses over log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from data.topv2.batches import Batch


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


def target_nll(scores: Tensor, batch: Batch, scored: Tensor, smoothing: float, ontology: int) -> Tensor:
    """Mean of :func:`smoothed_nll` over target places, a scalar.

    Args:
        scores: log-probabilities of all target places, the groups of ``batch`` end to end, ``[places, ontology + S]``.
        batch: what was scored.
        scored: ``[places]``, True where the loss counts.
        smoothing: mass spread over ontology tokens and the pieces that the row has.
        ontology: ontology tokens.
    """
    allowed = None
    if batch.mask is not None and smoothing:
        steps = torch.cat([batch.lengths.new_full((len(t),), t.shape[1]) for t in batch.targets])
        pieces = batch.mask.repeat_interleave(steps, dim=0)
        allowed = torch.cat((pieces.new_ones(len(pieces), ontology), pieces), dim=1)
    targets = torch.cat([targets.flatten() for targets in batch.targets]).clamp(min=0)
    return (smoothed_nll(scores, targets, smoothing, allowed) * scored).sum() / scored.sum()


def divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """Kullback-Leibler divergence of ``found`` from ``wanted``, both log-probabilities ``[N, K]``; ``[N]``."""
    return F.kl_div(found, wanted, log_target=True, reduction="none").sum(dim=1)


def symmetric_divergence(one: Tensor, other: Tensor) -> Tensor:
    """:func:`divergence` in both directions; ``[N]``."""
    return divergence(one, other) + divergence(other, one)
