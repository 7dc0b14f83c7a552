"""What every parser that writes ontology tokens and pointers shares: encoder states in, scores of target positions out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from parsers.bounds import check_bounds
from parsers.dropout import ByteDropout
from parsers.encoders import to_autocast_dtype
from parsers.layout import Layout
from parsers.nar import MASKED
from parsers.pointer import Copy, PointerHead


@dataclass
class PointerConfig:
    """Sizes that all kinds of model have.

    Attributes:
        width: channels of states.
        dropout: inside the blocks of decoder and encoder.
        input_dropout: on embeddings of pieces and of target positions.
        max_length: longest target.
    """

    width: int = 256
    dropout: float = 0.1
    input_dropout: float = 0.1
    max_length: int = 79

    def __post_init__(self) -> None:
        check_bounds(self)


class PointerDecoder(nn.Module):
    """Embedding of the target, decoder blocks and the head; no text, no Lightning.

    Args:
        config: sizes.
        blocks: called as :class:`parsers.encoders.LightConvBlock` is.
        num_ontology_tokens: ontology tokens.
        reads_tokens: whether the decoder reads tokens already decided.
        copy: what a pointer copies, see :class:`parsers.pointer.PointerHead`.
    """

    def __init__(
        self,
        config: PointerConfig,
        blocks: Iterable[nn.Module],
        num_ontology_tokens: int,
        reads_tokens: bool,
        copy: Copy = "positions",
    ) -> None:
        super().__init__()
        c = config
        self.max_length, self.ontology_size = c.max_length, num_ontology_tokens
        self.mask_embedding = nn.Parameter(torch.randn(c.width) * 0.1)
        self.token_embedding = nn.Embedding(num_ontology_tokens, c.width) if reads_tokens else None
        self.copied = nn.Linear(c.width, c.width) if reads_tokens else None
        self.positions = nn.Parameter(torch.randn(c.max_length, c.width))
        self.norm = nn.LayerNorm(c.width)
        self.dropout = ByteDropout(c.input_dropout)
        self.blocks = nn.ModuleList(blocks)
        self.head = PointerHead(c.width, num_ontology_tokens, copy)

    def decode_groups(
        self,
        memory: Tensor,
        pieces: Tensor,
        mask: Tensor | None,
        tokens: Sequence[Tensor],
        target_masks: Sequence[Tensor | None],
        lengths: Tensor,
    ) -> Tensor:
        """Scores all positions of targets that come in consecutive groups of like length.

        Args:
            memory: encoder states ``[B, S, width]``.
            pieces: ids ``[B, S]``.
            mask: ``[B, S]``, True at pieces, or None.
            tokens: for each group ``[G, T]`` what the decoder reads: ids, :data:`MASKED` where nothing is known; only
                their shape counts unless it reads tokens.
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
        x = self.dropout(to_autocast_dtype(self.norm(layout.join([self._inputs(*part) for part in parts]))))
        for block in self.blocks:
            x = block(x, layout, memory, memory_layout)
        return self.head(x, layout, memory, memory_layout, pieces)

    def _inputs(self, tokens: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings ``[G, T, width]`` of what is known of the targets: places and tokens decided."""
        positions = self.positions[: tokens.shape[1]]
        x = (self.mask_embedding + positions)[None].expand(tokens.shape[0], -1, -1)
        if self.token_embedding is not None and self.copied is not None:
            places = (tokens - self.ontology_size).clamp(0, memory.shape[1] - 1)
            copies = self.copied(memory).gather(1, places[:, :, None].expand(-1, -1, memory.shape[2]))
            labels = self.token_embedding(tokens.clamp(0, self.ontology_size - 1)).to(copies.dtype)
            known = torch.where((tokens >= self.ontology_size)[:, :, None], copies, labels)
            x = torch.where((tokens == MASKED)[:, :, None], x.to(known.dtype), known + positions)
        return x


class PointerNetwork(PointerDecoder):
    """An encoder and its decoder.

    Args:
        config: sizes.
        encoder: ``(pieces [B, S], mask [B, S] or None, noise)`` to states ``[B, S, width]``.
        blocks: of the decoder, called as :class:`parsers.encoders.LightConvBlock` is.
        num_ontology_tokens: ontology tokens.
        reads_tokens: whether the decoder reads tokens already decided.
        copy: what a pointer copies, see :class:`parsers.pointer.PointerHead`.
    """

    def __init__(
        self,
        config: PointerConfig,
        encoder: nn.Module,
        blocks: Iterable[nn.Module],
        num_ontology_tokens: int,
        reads_tokens: bool,
        copy: Copy = "positions",
    ) -> None:
        super().__init__(config, blocks, num_ontology_tokens, reads_tokens, copy)
        self.encoder = encoder

    def load_extending_ontology(self, parameters: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str]) -> None:
        """Takes over the parameters of a model with fewer ontology tokens; those of new tokens stay as they are.

        Args:
            parameters: state of a model of the same sizes, which may have further parts.
            old: its ontology tokens.
            new: the ontology tokens of this model, all of the old ones among them.

        Raises:
            RuntimeError: the sizes differ, or a part is missing.
        """
        places = torch.tensor([new.index(token) for token in old])
        wanted = self.state_dict()
        widened = {name: value for name, value in parameters.items() if name in wanted}
        for name, own in wanted.items():
            if name.removeprefix("rescorer.").startswith(("head.ontology.", "token_embedding.")):
                widened[name] = own.index_copy(0, places, parameters[name].to(own))
        self.load_state_dict(widened)


def shifted(targets: Tensor) -> Tensor:
    """What a causal decoder reads to predict ``targets`` ``[G, T]``: at each place the token before it.

    Padding (negative ids) reads as nothing, which no position before it sees.
    """
    before = torch.nn.functional.pad(targets[:, :-1], (1, 0), value=MASKED)
    return before.clamp(min=MASKED)
