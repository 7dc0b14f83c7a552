"""Ontology logits, pointer logits and the gate that mixes them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from parsers.layout import Layout

#: What a pointer copies; see :class:`PointerHead`.
Copy = Literal["positions", "types"]


class PointerHead(nn.Module):
    """Log-probabilities over ontology tokens and positions of the utterance.

    ``p = gate * softmax(ontology) + (1 - gate) * softmax(pointer)``, computed in logarithms so that nothing
    needs a floor (Babu et al. 2021 add 1e-7 instead). The pointer is a scaled dot product of one head over all channels
    (Vaswani et al. 2017).

    Args:
        width: channels of decoder and encoder states.
        num_ontology_tokens: number of ontology tokens.
        copy: ``"positions"`` points at one place; ``"types"`` gives every place of the same piece the sum over
            those places, as in the paper, which copies words rather than places.
    """

    def __init__(self, width: int, num_ontology_tokens: int, copy: Copy = "positions") -> None:
        super().__init__()
        self.copy = copy
        self.ontology = nn.Linear(width, num_ontology_tokens)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.gate = nn.Linear(2 * width, 1)
        self.scale = width**-0.5

    def forward(self, states: Tensor, layout: Layout, memory: Tensor, memory_layout: Layout, pieces: Tensor) -> Tensor:
        """Scores every position of the targets.

        Args:
            states: decoder states, laid out by ``layout``.
            layout: groups of ``states``.
            memory: encoder states, laid out by ``memory_layout``.
            memory_layout: groups of ``memory``, matching those of ``states``; ``S`` pieces in each row.
            pieces: piece ids ``[B, S]``, read only by ``copy="types"``.

        Returns:
            Log-probabilities laid out as ``states``, ``ontology + S`` in the last dimension; those of padded
            pieces are about -1e4.
        """
        rows = pieces.split([rows for rows, _ in layout.shapes]) if len(layout.shapes) > 1 else [pieces]
        parts = (
            layout.split(self.query(states)),
            memory_layout.split(self.key(memory)),
            memory_layout.split(memory),
            memory_layout.masks,
            rows,
        )
        pointed = [self._point(*part) for part in zip(*parts, strict=True)]
        attended, pointer = (layout.join(kind) for kind in zip(*pointed, strict=True))
        gate = self.gate(torch.cat((attended, states), dim=-1)).float()
        ontology = F.log_softmax(self.ontology(states).float(), dim=-1)
        return torch.cat((F.logsigmoid(gate) + ontology, F.logsigmoid(-gate) + pointer), dim=-1)

    def _point(
        self, query: Tensor, key: Tensor, memory: Tensor, mask: Tensor | None, pieces: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attended encoder states ``[G, T, width]`` and log-probabilities of the pieces ``[G, T, S]``."""
        logits = torch.matmul(query, key.transpose(1, 2)).float() * self.scale
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, :], -1e4)
        attention = F.softmax(logits, dim=-1)
        attended = torch.matmul(attention.to(memory.dtype), memory)
        if self.copy == "types":
            same = (pieces[:, :, None] == pieces[:, None, :]).to(attention.dtype)
            return attended, torch.matmul(attention, same).clamp(min=1e-7).log()
        return attended, F.log_softmax(logits, dim=-1)
