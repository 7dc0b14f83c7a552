"""The torch side of :class:`parsers.nar.Backend`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from parsers.nar import Encoded
from parsers.nar_model import NARModel


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """No dropout, whatever mode the model is in; that mode is restored afterwards."""
    if not model.training:
        # To say so to every part takes longer than a small model's pass.
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


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
        with evaluation_mode(self.model), torch.inference_mode():
            yield

    def encode(self, pieces: np.ndarray, mask: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """See :class:`parsers.nar.Backend`."""
        with self.evaluating():
            memory, lengths = self.model.encode(self._tensor(pieces), self._mask(mask))
            return memory, lengths.float().cpu().numpy()

    def decode(self, encoded: Encoded, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """See :class:`parsers.nar.Backend`."""
        return self._run_decoder(self.model.decode, encoded, rows, tokens, lengths)

    def rescore(self, encoded: Encoded, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """See :class:`parsers.nar.Backend`."""
        return self._run_decoder(self.model.rescore, encoded, rows, tokens, lengths)

    def _run_decoder(
        self,
        part: Callable[..., Tensor],
        encoded: Encoded,
        rows: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
    ) -> np.ndarray:
        """Scores of targets by a part of the model, over rows of a batch."""
        with self.evaluating():
            scores = part(
                encoded.memory[self._tensor(rows)],
                self._tensor(encoded.pieces[rows]),
                self._mask(encoded.mask[rows]),
                self._tensor(tokens),
                self._tensor(lengths),
            )
            return scores.float().cpu().numpy()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(next(self.model.parameters()).device)

    def _mask(self, mask: np.ndarray) -> Tensor | None:
        return None if mask.all() else self._tensor(mask)
