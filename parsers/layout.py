"""Sequences of several lengths in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Groups of sequences, each group of one shape ``[G, T]``, laid end to end.

    What treats each place alone (linear layers, norms, dropout) runs once over all groups; only what looks along
    a sequence goes group by group. A single group stays ``[G, T, width]``; several are flat, ``[places, width]``.

    Attributes:
        shapes: rows and steps of each group.
        masks: for each group ``[G, T]``, True at tokens, or None where nothing is padded.
    """

    shapes: Sequence[tuple[int, int]]
    masks: Sequence[Tensor | None]

    @staticmethod
    def single(x: Tensor, mask: Tensor | None) -> Layout:
        """The layout of one group shaped like the first two dimensions of ``x``."""
        return Layout([(x.shape[0], x.shape[1])], [mask])

    def split(self, x: Tensor) -> Sequence[Tensor]:
        """The groups of ``x``, each ``[G, T, width]``."""
        if len(self.shapes) == 1:
            return [x]
        parts = x.split([rows * steps for rows, steps in self.shapes])
        return [part.view(rows, steps, -1) for part, (rows, steps) in zip(parts, self.shapes, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The opposite of :meth:`split`."""
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])

    def of_rows(self, x: Tensor, mask: Tensor | None) -> Layout:
        """How sequences ``x`` ``[B, S, ...]``, one for each row of these groups in their order, are laid out."""
        if len(self.shapes) == 1:
            return Layout.single(x, mask)
        sizes = [rows for rows, _ in self.shapes]
        masks = [None] * len(sizes) if mask is None else mask.split(sizes)
        return Layout([(rows, x.shape[1]) for rows in sizes], masks)
