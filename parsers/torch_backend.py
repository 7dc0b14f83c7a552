"""The torch side of :class:`parsers.nar.Backend`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class NARModel(Protocol):
    """What a non-autoregressive ``nn.Module`` offers: see :class:`parsers.conv_nar.model.ConvNAR`."""

    def encode(self, pieces: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """States ``[B, S, width]`` and length log-probabilities ``[B, C]``."""
        ...

    def decode(self, memory: Tensor, pieces: Tensor, mask: Tensor | None, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Log-probabilities ``[B, T, V + S]``."""
        ...

    def rescore(self, memory: Tensor, pieces: Tensor, mask: Tensor | None, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Log-probabilities ``[B]`` of whole targets, where the model has a rescorer."""
        ...


class TorchBackend:
    """Runs a model without gradients in evaluation mode, wherever its parameters are.

    Args:
        model: the parser's module.
    """

    def __init__(self, model: NARModel) -> None:
        self.model = model

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradients, and no dropout whatever mode the model is in."""
        assert isinstance(self.model, torch.nn.Module)
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.train(training)

    def encode(self, pieces: np.ndarray, mask: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """See :class:`parsers.nar.Backend`."""
        with self.evaluating():
            memory, lengths = self.model.encode(self._tensor(pieces), self._mask(mask))
            return memory, lengths.float().cpu().numpy()

    def decode(
        self,
        memory: Tensor,
        rows: np.ndarray,
        pieces: np.ndarray,
        mask: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
    ) -> np.ndarray:
        """See :class:`parsers.nar.Backend`."""
        with self.evaluating():
            scores = self.model.decode(*self._of_rows(memory, rows, pieces, mask, tokens, lengths))
            return scores.float().cpu().numpy()

    def rescore(
        self,
        memory: Tensor,
        rows: np.ndarray,
        pieces: np.ndarray,
        mask: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
    ) -> np.ndarray:
        """See :class:`parsers.nar.Backend`."""
        with self.evaluating():
            scores = self.model.rescore(*self._of_rows(memory, rows, pieces, mask, tokens, lengths))
            return scores.float().cpu().numpy()

    def _of_rows(
        self,
        memory: Tensor,
        rows: np.ndarray,
        pieces: np.ndarray,
        mask: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        """What the model's parts read, for these rows of the batch."""
        return (
            memory[self._tensor(rows)],
            self._tensor(pieces[rows]),
            self._mask(mask[rows]),
            self._tensor(tokens),
            self._tensor(lengths),
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        assert isinstance(self.model, torch.nn.Module)
        return torch.from_numpy(array).to(next(self.model.parameters()).device)

    def _mask(self, mask: np.ndarray) -> Tensor | None:
        return None if mask.all() else self._tensor(mask)
