"""How many tokens the frame will have: the length module and its beam."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from parsers.dropout import ByteDropout
from parsers.encoders import LightweightConv
from retrieval.scoring import pool


class LengthModule(nn.Module):
    """Convolutions, pooling, and one class for each length (Babu et al. 2021, length module).

    Args:
        width: channels of the encoder's states.
        hidden: channels inside.
        kernels: taps of each convolution; none gives the paper's plain variant (pooling and a perceptron).
        classes: number of lengths, ``0 .. classes - 1``.
        dropout: inside.
        peaks: whether the largest value of each channel stands beside the mean, so that one word that asks for one more
            slot is not averaged away; the paper takes the mean alone.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        kernels: list[int],
        classes: int,
        dropout: float,
        peaks: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.peaks = classes, peaks
        self.enter = nn.Linear(width, hidden)
        self.gates = nn.ModuleList(nn.Linear(hidden, 2 * hidden) for _ in kernels)
        self.convs = nn.ModuleList(LightweightConv(hidden, 4, kernel) for kernel in kernels)
        self.dropout = ByteDropout(dropout)
        self.out = nn.Linear(hidden * (2 if peaks else 1), classes)

    def forward(self, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Encoder states ``[B, S, width]`` to log-probabilities of lengths ``[B, classes]``."""
        x = self.enter(memory)
        for gate, conv in zip(self.gates, self.convs, strict=True):
            x = x + conv(F.glu(gate(self.dropout(x)), dim=-1), mask)
        x = F.relu(x)
        pooled = pool(x, mask)
        if self.peaks:
            # After the ReLU nothing is below zero, so zeroed padding never wins the maximum.
            peak = x if mask is None else x * mask[:, :, None].to(x.dtype)
            pooled = torch.cat((pooled, peak.amax(dim=1)), dim=-1)
        return F.log_softmax(self.out(self.dropout(pooled)).float(), dim=-1)
