"""What non-autoregressive parsers share: encode, predict the length, decode all positions of the target at once.

Babu et al. 2021 (arXiv 2104.04923) and Shrivastava et al. 2021 (arXiv 2104.07275) differ in the encoder, the blocks of
the decoder and the form of the target; the rest is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from parsers.encoders import TransformerBlock
from parsers.length import LengthModule
from parsers.pointer import Copy
from parsers.pointer_network import PointerConfig, PointerDecoder, PointerNetwork, shifted


@dataclass
class NARConfig(PointerConfig):
    """Sizes and kind of the length module.

    Attributes:
        length_hidden: channels of the length module.
        length_kernels: taps of its convolutions; none gives a perceptron on the pooled states.
        plain_length: as in the papers, the length is read from the mean of the states alone, and the decoder does not see
            it. Ours adds the largest value of each channel, and every position of the decoder reads the total length.
        length_dropout: inside the length module.
        rescoring_layers: causal blocks of the rescorer (:attr:`NARModel.rescorer`), 0 for none.
    """

    length_hidden: int = 256
    length_kernels: list[int] = field(default_factory=lambda: [3])
    plain_length: bool = False
    length_dropout: float = 0.3
    rescoring_layers: int = 0

    def causal_blocks(self, heads: int, feed_forward: int) -> list[TransformerBlock]:
        """The rescorer's blocks, with so many heads of attention and this inner width of the feed-forward parts."""
        return [
            TransformerBlock(self.width, heads, heads, feed_forward, self.dropout, causal=True)
            for _ in range(self.rescoring_layers)
        ]


class NARModel(PointerNetwork):
    """A pointer network with a length module, ``max_length + 1`` classes wide.

    Args:
        config: sizes.
        encoder: see :class:`parsers.pointer_network.PointerNetwork`.
        blocks: of the decoder, without a causal mask.
        num_ontology_tokens: ontology tokens.
        causal_blocks: of the rescorer; none for a model without.
        copy: what a pointer copies, see :class:`parsers.pointer.PointerHead`.

    Attributes:
        rescorer: a second decoder over the same encoder states, which scores a whole frame token by token in one pass,
            each token given those before it (noisy parallel decoding, Gu et al. 2018, arXiv 1711.02281).
    """

    def __init__(
        self,
        config: NARConfig,
        encoder: nn.Module,
        blocks: Iterable[nn.Module],
        num_ontology_tokens: int,
        causal_blocks: Sequence[nn.Module] = (),
        copy: Copy = "positions",
    ) -> None:
        c = config
        super().__init__(config, encoder, blocks, num_ontology_tokens, reads_tokens=False, copy=copy)
        self.length = LengthModule(
            c.width, c.length_hidden, c.length_kernels, c.max_length + 1, c.length_dropout, not c.plain_length
        )
        self.lengths = nn.Embedding(c.max_length + 1, c.width) if not c.plain_length else None
        self.rescorer = (
            PointerDecoder(c, causal_blocks, num_ontology_tokens, reads_tokens=True) if causal_blocks else None
        )

    def encode(self, pieces: Tensor, mask: Tensor | None, noise: float = 0.0) -> tuple[Tensor, Tensor]:
        """Utterances to states and lengths.

        Args:
            pieces: ids ``[B, S]``.
            mask: ``[B, S]``, True at pieces; None when no row is padded.
            noise: embeddings are moved by uniform noise of up to this size.

        Returns:
            Encoder states ``[B, S, width]`` and log-probabilities of lengths ``[B, max_length + 1]``.
        """
        memory = self.encoder(pieces, mask, noise)
        return memory, self.length(memory, mask)

    def decode(self, memory: Tensor, pieces: Tensor, mask: Tensor | None, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Scores all positions of the targets at once.

        Args:
            memory: encoder states ``[B, S, width]``.
            pieces: ids ``[B, S]``.
            mask: ``[B, S]``, True at pieces, or None.
            tokens: ``[B, T]``, of which the shape alone is read.
            lengths: ``[B]`` tokens of each target, at most ``T``.

        Returns:
            ``[B, T, ontology + S]`` log-probabilities.
        """
        return self.decode_groups(memory, pieces, mask, [tokens], [up_to(lengths, tokens)], lengths)

    def rescore(self, memory: Tensor, pieces: Tensor, mask: Tensor | None, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Scores whole targets.

        Args:
            memory: encoder states ``[B, S, width]``.
            pieces: ids ``[B, S]``.
            mask: ``[B, S]``, True at pieces, or None.
            tokens: target ids ``[B, T]``, anything after the end.
            lengths: ``[B]`` tokens of each target, at most ``T``.

        Returns:
            ``[B]`` log-probabilities, as the rescorer sees them.
        """
        assert self.rescorer is not None
        here = up_to(lengths, tokens)
        scores = self.rescorer.decode_groups(memory, pieces, mask, [shifted(tokens)], [here], lengths)
        return (scores.gather(2, tokens[:, :, None])[:, :, 0] * here).sum(dim=1)

    def _inputs(self, tokens: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
        """What is known of the targets, their total length included."""
        x = super()._inputs(tokens, memory, lengths)
        return x if self.lengths is None else x + self.lengths(lengths)[:, None, :]


def up_to(lengths: Tensor, tokens: Tensor) -> Tensor:
    """``[B, T]`` of the shape of ``tokens``, True at the first ``lengths [B]`` places of each row."""
    return torch.arange(tokens.shape[1], device=tokens.device)[None, :] < lengths[:, None]
