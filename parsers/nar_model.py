"""What non-autoregressive parsers share: encode, predict the length, decode all positions of the target at once.

Babu et al. 2021 (arXiv 2104.04923) and Shrivastava et al. 2021 (arXiv 2104.07275) differ in the encoder, the blocks of
the decoder and the form of the target; the rest is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from parsers.dropout import ByteDropout
from parsers.encoders import working
from parsers.layout import Layout
from parsers.length import LengthModule
from parsers.mask_predict import MASKED
from parsers.pointer import PointerHead


class NARModel(nn.Module):
    """The parser's mathematics; no text, no Lightning.

    Args:
        encoder: ``(pieces [B, S], mask [B, S] or None)`` to states ``[B, S, width]``.
        length: states to log-probabilities of lengths.
        blocks: of the decoder, called as :class:`parsers.encoders.LightConvBlock` is.
        head: scores of ontology tokens and places.
        width: channels of states.
        max_length: longest target.
        length_embedding: whether the decoder is told the total length at every position.
        reads_tokens: whether the decoder reads tokens already decided, which conditional masked training and
            mask-predict need.
        dropout: on the decoder's input.
    """

    def __init__(
        self,
        encoder: nn.Module,
        length: LengthModule,
        blocks: Iterable[nn.Module],
        head: PointerHead,
        width: int,
        max_length: int,
        length_embedding: bool,
        reads_tokens: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.max_length, self.ontology_size = max_length, head.ontology.out_features
        self.encoder = encoder
        self.length = length
        self.mask_embedding = nn.Parameter(torch.randn(width) * 0.1)
        self.token_embedding = nn.Embedding(self.ontology_size, width) if reads_tokens else None
        self.copied = nn.Linear(width, width) if reads_tokens else None
        self.positions = nn.Parameter(torch.randn(max_length, width))
        self.lengths = nn.Embedding(max_length + 1, width) if length_embedding else None
        self.norm = nn.LayerNorm(width)
        self.dropout = ByteDropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.head = head

    def encode(self, pieces: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Utterances to states and lengths.

        Args:
            pieces: ids ``[B, S]``.
            mask: ``[B, S]``, True at pieces; None when no row is padded.

        Returns:
            Encoder states ``[B, S, width]`` and log-probabilities of lengths ``[B, max_length + 1]``.
        """
        memory = self.encoder(pieces, mask)
        return memory, self.length(memory, mask)

    def decode(self, memory: Tensor, pieces: Tensor, mask: Tensor | None, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Scores all positions of the targets at once.

        Args:
            memory: encoder states ``[B, S, width]``.
            pieces: ids ``[B, S]``.
            mask: ``[B, S]``, True at pieces, or None.
            tokens: target ids ``[B, T]``, :data:`MASKED` where not decided; only their shape is read unless
                ``reads_tokens``.
            lengths: ``[B]`` tokens of each target, at most ``T``.

        Returns:
            ``[B, T, ontology + S]`` log-probabilities.
        """
        target_mask = torch.arange(tokens.shape[1], device=tokens.device)[None, :] < lengths[:, None]
        return self.decode_groups(memory, pieces, mask, [tokens], [target_mask], lengths)

    def decode_groups(
        self,
        memory: Tensor,
        pieces: Tensor,
        mask: Tensor | None,
        tokens: Sequence[Tensor],
        target_masks: Sequence[Tensor | None],
        lengths: Tensor,
    ) -> Tensor:
        """As :meth:`decode`, for rows whose targets come in consecutive groups of like length.

        Args:
            memory: encoder states ``[B, S, width]``.
            pieces: ids ``[B, S]``.
            mask: ``[B, S]``, True at pieces, or None.
            tokens: for each group ``[G, T]``.
            target_masks: for each group ``[G, T]``, True at tokens, or None where nothing is padded.
            lengths: ``[B]``.

        Returns:
            Log-probabilities, ``ontology + S`` in the last dimension, laid out as :class:`Layout` says.
        """
        layout = Layout([(group.shape[0], group.shape[1]) for group in tokens], target_masks)
        memory_layout = layout.of_rows(memory, mask)
        if len(layout.shapes) > 1:
            memory = memory.flatten(0, 1)
        rows = lengths.split([group.shape[0] for group in tokens]) if len(tokens) > 1 else [lengths]
        parts = zip(tokens, memory_layout.split(memory), rows, strict=True)
        x = self.dropout(working(self.norm(layout.join([self._inputs(*part) for part in parts]))))
        for block in self.blocks:
            x = block(x, layout, memory, memory_layout)
        return self.head(x, layout, memory, memory_layout, pieces)

    def _inputs(self, tokens: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings ``[G, T, width]`` of what is known of the targets: places, total length, tokens decided."""
        positions = self.positions[: tokens.shape[1]]
        x = (self.mask_embedding + positions)[None].expand(tokens.shape[0], -1, -1)
        if self.token_embedding is not None and self.copied is not None:
            places = (tokens - self.ontology_size).clamp(0, memory.shape[1] - 1)
            copies = self.copied(memory).gather(1, places[:, :, None].expand(-1, -1, memory.shape[2]))
            labels = self.token_embedding(tokens.clamp(0, self.ontology_size - 1)).to(copies.dtype)
            known = torch.where((tokens >= self.ontology_size)[:, :, None], copies, labels)
            x = torch.where((tokens == MASKED)[:, :, None], x.to(known.dtype), known + positions)
        return x if self.lengths is None else x + self.lengths(lengths)[:, None, :]
