"""The torch side of :class:`parsers.layerskip.backend.Backend`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parsers.layerskip.cache import RowCache
from parsers.layerskip.model import LayerSkip
from parsers.torch_backend import evaluation_mode


@dataclass
class TorchMemory:
    """Keys and values of a batch, and the states at the exit.

    Attributes:
        cache: keys and values.
        states: ``[B, capacity, width]`` after the layers that draft.
        prompts: ``[B]`` lengths of the prompts, that a model which reads both ways sees as a whole.
    """

    cache: RowCache
    states: Tensor
    prompts: Tensor


class TorchBackend:
    """Runs a :class:`LayerSkip`, in evaluation mode while it does.

    Args:
        model: the model.
    """

    def __init__(self, model: LayerSkip) -> None:
        self.model = model
        self.depth = model.depth
        self.exits = tuple(range(1, model.depth + 1))

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> TorchMemory:
        """See :class:`parsers.layerskip.backend.Backend`."""
        head = self.model.head
        heads, width = self.model.cache_shape
        cache = RowCache(self.depth, len(prompts), capacity, heads, width, head.device, head.dtype)
        states = torch.zeros(len(prompts), capacity, head.shape[1], device=head.device, dtype=head.dtype)
        return TorchMemory(cache, states, torch.tensor([len(prompt) for prompt in prompts], device=head.device))

    def draft(
        self, memory: TorchMemory, rows: np.ndarray, tokens: np.ndarray, positions: np.ndarray, exit_layer: int
    ) -> Tensor:
        """See :class:`parsers.layerskip.backend.Backend`."""
        chosen, at = self._to(rows), self._to(positions)
        with torch.inference_mode(), evaluation_mode(self.model):
            states = self._run(memory, chosen, at, self.model.embed(self._to(tokens)), 0, exit_layer)
            if exit_layer < self.depth:
                memory.states[chosen[:, None], at] = states
        return states

    def finish(self, memory: TorchMemory, rows: np.ndarray, positions: np.ndarray, exit_layer: int) -> Tensor:
        """See :class:`parsers.layerskip.backend.Backend`."""
        chosen, at = self._to(rows), self._to(positions)
        with torch.inference_mode(), evaluation_mode(self.model):
            return self._run(memory, chosen, at, memory.states[chosen[:, None], at], exit_layer, self.depth)

    def scores(self, states: Tensor, index: np.ndarray, tokens: Sequence[np.ndarray] | None) -> list[np.ndarray]:
        """See :class:`parsers.layerskip.backend.Backend`."""
        at = self._to(index)
        with torch.inference_mode():
            chosen = states[at[:, 0], at[:, 1]]
            if tokens is None:
                return list(self.model.logits(chosen).float().cpu().numpy())
            if len(tokens) == 1:
                return [self.model.logits(chosen[0], self._to(tokens[0])).float().cpu().numpy()]
            # One transfer for all, whatever the number of tokens of each.
            padded = np.zeros((len(tokens), max(len(row) for row in tokens)), dtype=np.int64)
            for i, row in enumerate(tokens):
                padded[i, : len(row)] = row
            scores = self.model.candidate_logits(chosen, self._to(padded)).float().cpu().numpy()
        return [row[: len(some)] for row, some in zip(scores, tokens, strict=True)]

    def _to(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.model.head.device)

    def _run(self, memory: TorchMemory, rows: Tensor, positions: Tensor, hidden: Tensor, first: int, last: int) -> Any:
        capacity = memory.cache.capacity
        real = positions < capacity - 1
        end = int(torch.where(real, positions, 0).max()) + 1
        steps = torch.arange(end, device=positions.device)
        seen = steps <= positions[..., None]
        if self.model.config.read_both_ways:
            prompts = memory.prompts[rows][:, None, None]
            seen = seen | ((steps < prompts) & (positions[..., None] < prompts))
        everyone = len(rows) == len(memory.prompts)
        memory.cache.select(None if everyone else rows, positions, end)
        mask = None if positions.shape == (1, 1) else seen[:, None]
        return self.model.run(hidden, positions, first, last, mask, memory.cache)
