"""Vectors of utterances and scenarios, and the loss of retrieval."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def pool(states: Tensor, mask: Tensor | None) -> Tensor:
    """The mean state of each sequence.

    Args:
        states: ``[B, S, W]``.
        mask: ``[B, S]``, True at pieces, or None.

    Returns:
        ``[B, W]``.
    """
    if mask is None:
        return states.mean(dim=1)
    weight = mask[:, :, None].to(states.dtype)
    return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def retrieval_nll(queries: Tensor, keys: Tensor, gold: Tensor, scale: Tensor | float, smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood of the gold scenario among all keys (Shrivastava et al. 2022, retrieval).

    No two keys may be of one scenario, or a row's gold scenario would be its own negative (the paper masks these).

    Args:
        queries: ``[B, D]`` of utterances.
        keys: ``[K, D]`` of scenarios.
        gold: ``[B]`` position of each row's scenario among the keys.
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
