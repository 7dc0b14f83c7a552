"""Ontology logits, pointer logits and the gate that mixes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class PointerHead(nn.Module):
    """Log-probabilities over ontology tokens and positions of the utterance.

    ``p = gate * softmax(ontology) + (1 - gate) * softmax(pointer)``, computed in logarithms so that nothing
    needs a floor (Babu et al. 2021 add 1e-7 instead).

    Args:
        width: channels of decoder and encoder states.
        ontology: number of ontology tokens.
        heads: heads of the pointer attention; their logits are averaged.
        copy: ``"positions"`` points at one place; ``"types"`` gives every place of the same piece the sum over
            those places, as in the paper, which copies words rather than places.
    """

    def __init__(self, width: int, ontology: int, heads: int, copy: str = "positions") -> None:
        super().__init__()
        if copy not in ("positions", "types"):
            raise ValueError(f"pointer copy {copy!r}: 'positions' or 'types'")
        self.heads, self.copy = heads, copy
        self.ontology = nn.Linear(width, ontology)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.gate = nn.Linear(2 * width, 1)
        self.scale = (width // heads) ** -0.5 / heads

    def forward(self, states: Tensor, memory: Tensor, mask: Tensor | None, pieces: Tensor) -> Tensor:
        """Scores every position of the target.

        Args:
            states: decoder states ``[B, T, width]``.
            memory: encoder states ``[B, S, width]``.
            mask: ``[B, 1, 1, S]``, True at pieces, or None.
            pieces: piece ids ``[B, S]``, read only by ``copy="types"``.

        Returns:
            ``[B, T, ontology + S]`` log-probabilities; columns of padded pieces are about -1e4.
        """
        # The mean over heads of scaled dot products is one dot product over all channels.
        logits = (
            torch.matmul(self.query(states), self.key(memory).transpose(1, 2)).float() * self.scale * self.heads**0.5
        )
        if mask is not None:
            logits = logits.masked_fill(~mask[:, 0], -1e4)
        attention = F.softmax(logits, dim=-1)
        attended = torch.matmul(attention.to(memory.dtype), memory)
        gate = self.gate(torch.cat((attended, states), dim=-1)).float()
        pointer = F.log_softmax(logits, dim=-1)
        if self.copy == "types":
            same = (pieces[:, :, None] == pieces[:, None, :]).to(attention.dtype)
            pointer = torch.matmul(attention, same).clamp(min=1e-7).log()
        ontology = F.log_softmax(self.ontology(states).float(), dim=-1)
        return torch.cat((F.logsigmoid(gate) + ontology, F.logsigmoid(-gate) + pointer), dim=-1)
