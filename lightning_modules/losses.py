"""Losses over log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from data.training.batches import PAD_TARGET, Batch
from parsers.pointer_network import PointerDecoder, shifted


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


def target_nll(scores: Tensor, batch: Batch, smoothing: float, num_ontology_tokens: int) -> Tensor:
    """:func:`smoothed_nll` of every target place.

    Args:
        scores: log-probabilities of all target places, the groups of ``batch`` end to end, ``[targets, ontology + S]``.
        batch: what was scored.
        smoothing: mass spread over ontology tokens and the pieces that the row has.
        num_ontology_tokens: ontology tokens.

    Returns:
        ``[targets]``; values at padding are undefined.
    """
    allowed = None
    if batch.mask is not None and smoothing:
        pieces = batch.mask.repeat_interleave(steps(batch), dim=0)
        allowed = torch.cat((pieces.new_ones(len(pieces), num_ontology_tokens), pieces), dim=1)
    targets = torch.cat([targets.flatten() for targets in batch.targets]).clamp(min=0)
    return smoothed_nll(scores, targets, smoothing, allowed)


def steps(batch: Batch) -> Tensor:
    """Target places of each row ``[B]``, padding included."""
    return torch.cat([batch.lengths.new_full((len(t),), t.shape[1]) for t in batch.targets])


def causal_scores(decoder: PointerDecoder, memory: Tensor, batch: Batch) -> Tensor:
    """Scores of each target position from a causal decoder that reads the gold tokens before it; ``[targets, ontology + S]``."""
    read = [shifted(targets) for targets in batch.targets]
    scores = decoder.decode_groups(memory, batch.pieces, batch.mask, read, batch.target_masks, batch.lengths)
    return scores.flatten(0, -2)


def target_mask(batch: Batch) -> Tensor:
    """``[targets]``, True where the targets have a token."""
    return torch.cat([(targets != PAD_TARGET).flatten() for targets in batch.targets])


def mean_over_targets(losses: Tensor, real: Tensor) -> Tensor:
    """Mean of ``losses [targets]`` over the target positions, padding left out; a scalar.

    Args:
        losses: one value for each target position, the groups of a batch end to end.
        real: ``[targets]``, True at tokens (see :func:`target_mask`).
    """
    return (losses * real).sum() / real.sum()


def divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """Kullback-Leibler divergence of ``found`` from ``wanted``, both log-probabilities ``[N, K]``; ``[N]``."""
    return F.kl_div(found, wanted, log_target=True, reduction="none").sum(dim=1)


def symmetric_divergence(one: Tensor, other: Tensor) -> Tensor:
    """:func:`divergence` in both directions; ``[N]``."""
    return divergence(one, other) + divergence(other, one)
