"""Dropout whose mask costs one random byte an element."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ByteDropout(nn.Module):
    """Inverted dropout with a probability rounded to 1/256.

    ``torch.nn.Dropout`` draws one number an element from a serial generator, which on a CPU takes longer than
    the matrix product beside it; here one 64-bit draw serves eight elements.

    Args:
        p: share of elements zeroed in training, rounded to a multiple of 1/256.

    Attributes:
        p: the share in effect, under the name that ``torch.nn.Dropout`` has for it.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout {p} is not in [0, 1)")
        self.dropped = round(p * 256)
        self.p = self.dropped / 256
        self.scale = 256 / (256 - self.dropped)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        if not self.training or self.dropped == 0:
            return x
        draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
        draws.random_(-(2**63), None)
        keep = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped
        return x * keep.to(x.dtype).mul_(self.scale)

    def extra_repr(self) -> str:
        """The probability in effect."""
        return f"p={self.p:.3f}"
