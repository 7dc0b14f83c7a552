"""The arithmetic of a language model that is run layer by layer, for :mod:`parsers.layerskip.decoding`; without torch.

torch implements it for checkpoints (:mod:`parsers.layerskip.torch_backend`) and onnxruntime for bundles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Backend(Protocol):
    """A language model of which layers can be run by themselves.

    Attributes:
        depth: number of layers.
        exits: layers after which it can answer, ascending; the last is ``depth``.
    """

    depth: int
    exits: tuple[int, ...]

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> Any:
        """Memory for these sequences with this many positions each; nothing is run yet."""
        ...

    def draft(self, memory: Any, rows: np.ndarray, tokens: np.ndarray, positions: np.ndarray, exit_layer: int) -> Any:
        """Runs the layers up to an exit over tokens and keeps their states.

        Args:
            memory: as :meth:`begin` gives it.
            rows: ``[N]`` ascending numbers of sequences.
            tokens: ``[N, T]``.
            positions: ``[N, T]`` ascending; padding, at the end of a row, has the position ``capacity - 1``.
            exit_layer: one of :attr:`exits`.

        Returns:
            States ``[N, T, width]``.
        """
        ...

    def finish(self, memory: Any, rows: np.ndarray, positions: np.ndarray, exit_layer: int) -> Any:
        """Runs the layers from an exit on over the kept states at ``positions [N, T]``: states ``[N, T, width]``."""
        ...

    def scores(self, states: Any, index: np.ndarray, tokens: Sequence[np.ndarray] | None) -> list[np.ndarray]:
        """Logits of the tokens that may follow.

        Args:
            states: as :meth:`draft` or :meth:`finish` gives them.
            index: ``[N, 2]`` row and column of the states to score.
            tokens: for each the ``[K]`` tokens to score; None scores the whole vocabulary.

        Returns:
            Of each ``[K]`` or ``[vocabulary]`` logits.
        """
        ...
