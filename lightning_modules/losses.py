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


def target_nll(scores: Tensor, batch: Batch, smoothing: float, ontology: int) -> Tensor:
    """:func:`smoothed_nll` of every target place.

    Args:
        scores: log-probabilities of all target places, the groups of ``batch`` end to end, ``[places, ontology + S]``.
        batch: what was scored.
        smoothing: mass spread over ontology tokens and the pieces that the row has.
        ontology: ontology tokens.

    Returns:
        ``[places]``, without meaning where nothing is.
    """
    allowed = None
    if batch.mask is not None and smoothing:
        pieces = batch.mask.repeat_interleave(steps(batch), dim=0)
        allowed = torch.cat((pieces.new_ones(len(pieces), ontology), pieces), dim=1)
    targets = torch.cat([targets.flatten() for targets in batch.targets]).clamp(min=0)
    return smoothed_nll(scores, targets, smoothing, allowed)


def steps(batch: Batch) -> Tensor:
    """Target places of each row ``[B]``, padding included."""
    return torch.cat([batch.lengths.new_full((len(t),), t.shape[1]) for t in batch.targets])


def causal_scores(decoder: PointerDecoder, memory: Tensor, batch: Batch) -> Tensor:
    """What a causal decoder gives each target place, told the gold tokens before it; ``[places, ontology + S]``."""
    read = [shifted(targets) for targets in batch.targets]
    scores = decoder.decode_groups(memory, batch.pieces, batch.mask, read, batch.target_masks, batch.lengths)
    return scores.flatten(0, -2)


def real_places(batch: Batch) -> Tensor:
    """``[places]``, True where the targets have a token."""
    return torch.cat([(targets != PAD_TARGET).flatten() for targets in batch.targets])


def mean_of_places(losses: Tensor, batch: Batch, scored: Tensor) -> Tensor:
    """Mean of ``losses [places]`` over the target places that are ``scored [places]``, each row by its weight; a scalar."""
    shares = scored if batch.weights is None else scored * batch.weights.repeat_interleave(steps(batch))
    return (losses * shares).sum() / scored.sum()


def mean_of_rows(losses: Tensor, batch: Batch) -> Tensor:
    """Mean of ``losses [B]``, each row by its weight; a scalar."""
    return losses.mean() if batch.weights is None else (losses * batch.weights).mean()


def by_row(losses: Tensor, batch: Batch, scored: Tensor) -> Tensor:
    """Mean of ``losses [places]`` over the ``scored [places]`` of each row; ``[B]``."""
    rows = torch.arange(len(batch.lengths), device=losses.device).repeat_interleave(steps(batch))
    summed = losses.new_zeros((2, len(batch.lengths))).index_add(
        1, rows, torch.stack((losses * scored, scored.to(losses)))
    )
    return summed[0] / summed[1].clamp(min=1)


def divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """Kullback-Leibler divergence of ``found`` from ``wanted``, both log-probabilities ``[N, K]``; ``[N]``."""
    return F.kl_div(found, wanted, log_target=True, reduction="none").sum(dim=1)


def symmetric_divergence(one: Tensor, other: Tensor) -> Tensor:
    """:func:`divergence` in both directions; ``[N]``."""
    return divergence(one, other) + divergence(other, one)
