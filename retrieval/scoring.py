"""Vectors of utterances and scenarios, and the loss that brings those of a pair together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

POOLINGS = ("mean", "first")


def pool(states: Tensor, mask: Tensor | None, how: str = "mean") -> Tensor:
    """One vector of a sequence.

    Args:
        states: ``[B, S, W]``.
        mask: ``[B, S]``, True at what counts, or None.
        how: ``mean`` of the states, or the ``first``.

    Returns:
        ``[B, W]``.
    """
    if how == "first":
        return states[:, 0]
    if mask is None:
        return states.mean(dim=1)
    weight = mask[:, :, None].to(states.dtype)
    return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def retrieval_nll(
    queries: Tensor, keys: Tensor, gold: Tensor, places: Tensor, scale: Tensor | float, smoothing: float = 0.0
) -> Tensor:
    """Negative log-likelihood of the gold scenario among all keys (Shrivastava et al. 2022, retrieval).

    A key that is the gold scenario itself but not the gold column (another row's gold, or a copy that an older encoder
    made) is no negative: such columns are left out (identity masking).

    Args:
        queries: ``[B, D]`` of utterances.
        keys: ``[K, D]`` of scenarios.
        gold: ``[B]`` column of each row's scenario among the keys.
        places: ``[K]`` place in the bank of each key.
        scale: of the inner products.
        smoothing: mass spread over all columns that are not left out.

    Returns:
        ``[B]``.
    """
    logits = (queries @ keys.T).float() * scale
    columns = torch.arange(len(keys), device=keys.device)
    left_out = (places[None, :] == places[gold][:, None]) & (columns[None, :] != gold[:, None])
    log_probs = F.log_softmax(logits.masked_fill(left_out, float("-inf")), dim=1)
    nll = -log_probs.gather(1, gold[:, None])[:, 0]
    if smoothing == 0:
        return nll
    spread = -log_probs.masked_fill(left_out, 0.0).sum(dim=1) / (~left_out).sum(dim=1)
    return (1 - smoothing) * nll + smoothing * spread
