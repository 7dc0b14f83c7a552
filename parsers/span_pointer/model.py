"""Span pointer network: a pretrained encoder, a length, and a transformer that decodes all positions at once.

Shrivastava, Chuang, Babu, Desai, Arora, Zotov, Aly. Findings of EMNLP 2021, arXiv 2104.07275.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from parsers.encoders import TransformerBlock
from parsers.nar_model import NARConfig, NARModel
from parsers.pretrained import EncoderConfig, PretrainedEncoder


@dataclass
class SpanPointerConfig(NARConfig, EncoderConfig):
    """Sizes of the model; ``configs/span_pointer_roberta.yaml`` holds the paper's.

    Attributes:
        decoder_layers: blocks of the decoder.
        decoder_heads: heads of its attention.
        decoder_feed_forward: inner width of its feed-forward parts.
    """

    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_feed_forward: int = 768


class SpanPointer(NARModel):
    """A pretrained encoder and a transformer decoder.

    Args:
        config: sizes.
        transformer: the encoder.
        prefix: special ids before an utterance.
        suffix: special ids after it.
        num_ontology_tokens: ontology tokens.
    """

    def __init__(
        self,
        config: SpanPointerConfig,
        transformer: PreTrainedModel,
        prefix: Sequence[int],
        suffix: Sequence[int],
        num_ontology_tokens: int,
    ) -> None:
        c = config
        encoder = PretrainedEncoder(transformer, prefix, suffix, c.width, c.dropout, c.train_embeddings)
        blocks = [
            TransformerBlock(c.width, c.decoder_heads, c.decoder_heads, c.decoder_feed_forward, c.dropout)
            for _ in range(c.decoder_layers)
        ]
        causal = c.causal_blocks(c.decoder_heads, c.decoder_feed_forward)
        super().__init__(config, encoder, blocks, num_ontology_tokens, causal)
