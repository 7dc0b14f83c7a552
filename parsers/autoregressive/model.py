"""Autoregressive pointer network: ontology tokens and pointers, one after the other, on a pretrained encoder.

The seq2seq parser with a pointer of Rongali et al. 2020 (arXiv 2001.11458) and Aghajanyan et al. 2020 (arXiv
2009.13655), here with the same encoder, head and forms as the non-autoregressive parsers that are compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from parsers.encoders import TransformerBlock
from parsers.pointer_network import PointerConfig, PointerNetwork, shifted
from parsers.pretrained import EncoderConfig, PretrainedEncoder


@dataclass
class AutoregressiveConfig(PointerConfig, EncoderConfig):
    """Sizes of the model.

    Attributes:
        decoder_layers: blocks of the decoder.
        decoder_heads: heads of its attention.
        decoder_feed_forward: inner width of its feed-forward parts.
    """

    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_feed_forward: int = 768


class Autoregressive(PointerNetwork):
    """A pretrained encoder and a causal transformer decoder.

    Args:
        config: sizes.
        transformer: the encoder.
        prefix: special ids before an utterance.
        suffix: special ids after it.
        num_ontology_tokens: ontology tokens.
    """

    def __init__(
        self,
        config: AutoregressiveConfig,
        transformer: PreTrainedModel,
        prefix: Sequence[int],
        suffix: Sequence[int],
        num_ontology_tokens: int,
    ) -> None:
        c = config
        blocks = [
            TransformerBlock(c.width, c.decoder_heads, c.decoder_heads, c.decoder_feed_forward, c.dropout, causal=True)
            for _ in range(c.decoder_layers)
        ]
        encoder = PretrainedEncoder(transformer, prefix, suffix, c.width, c.dropout, c.train_embeddings)
        super().__init__(config, encoder, blocks, num_ontology_tokens, reads_tokens=True)

    def next_token(self, memory: Tensor, pieces: Tensor, mask: Tensor | None, tokens: Tensor) -> Tensor:
        """Scores what follows.

        Args:
            memory: encoder states ``[N, S, width]``.
            pieces: ids ``[N, S]``.
            mask: ``[N, S]``, True at pieces, or None.
            tokens: ids so far ``[N, T]``; ``T`` may be 0.

        Returns:
            ``[N, ontology + S]`` log-probabilities.
        """
        read = torch.nn.functional.pad(tokens, (0, 1))
        lengths = torch.full((len(tokens),), read.shape[1], device=tokens.device)
        return self.decode_groups(memory, pieces, mask, [shifted(read)], [None], lengths)[:, -1]
