"""Vectors of utterances and scenarios, and the loss that brings those of a pair together."""

from __future__ import annotations

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


def retrieval_nll(queries: Tensor, keys: Tensor, gold: Tensor, scale: Tensor | float, smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood of the gold scenario among all keys (Shrivastava et al. 2022, retrieval).

    No two keys may be of one scenario, so that a row's gold scenario is never its own negative (the paper's identity
    masking).

    Args:
        queries: ``[B, D]`` of utterances.
        keys: ``[K, D]`` of scenarios.
        gold: ``[B]`` place of each row's scenario among the keys.
        scale: of the inner products.
        smoothing: mass spread over all keys.

    Returns:
        ``[B]``.
    """
    log_probs = F.log_softmax((queries @ keys.T).float() * scale, dim=1)
    nll = -log_probs.gather(1, gold[:, None])[:, 0]
    if smoothing == 0:
        return nll
    return (1 - smoothing) * nll - smoothing * log_probs.mean(dim=1)
