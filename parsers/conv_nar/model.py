"""LightConv Pointer: encode, predict the length, decode all positions at once, with lightweight convolutions.

Babu, Shrivastava, Aghajanyan, Aly, Fan, Ghazvininejad. NAACL 2021, arXiv 2104.04923.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from parsers.encoders import LightConvBlock, LightConvEncoder
from parsers.nar_model import NARConfig, NARModel
from parsers.pointer import Copy


@dataclass
class ConvNARConfig(NARConfig):
    """Sizes of the model; ``configs/conv_nar_paper.yaml`` holds the paper's.

    Attributes:
        encoder_kernels: taps of each encoder block.
        encoder_conv_heads: heads of the encoder's convolutions.
        encoder_self_heads: heads of self-attention in the encoder, 0 for none.
        encoder_feed_forward: inner width of the encoder's feed-forward parts.
        decoder_kernels: taps of each decoder block.
        decoder_conv_heads: heads of the decoder's convolutions.
        decoder_self_heads: heads of self-attention in the decoder, 0 for none.
        decoder_cross_heads: heads of attention to the encoder.
        decoder_feed_forward: inner width of the decoder's feed-forward parts.
        pointer_copy: ``positions`` (ours) or ``types`` (the paper), see :class:`parsers.pointer.PointerHead`.
    """

    encoder_kernels: list[int] = field(default_factory=lambda: [3, 7, 15, 21])
    encoder_conv_heads: int = 8
    encoder_self_heads: int = 0
    encoder_feed_forward: int = 512
    decoder_kernels: list[int] = field(default_factory=lambda: [7, 27])
    decoder_conv_heads: int = 8
    decoder_self_heads: int = 0
    decoder_cross_heads: int = 4
    decoder_feed_forward: int = 512
    pointer_copy: Copy = "positions"


class ConvNAR(NARModel):
    """Lightweight convolutions in encoder and decoder.

    Args:
        config: sizes.
        vocabulary: pieces of the tokenizer.
        num_ontology_tokens: ontology tokens.
        max_positions: longest utterance, in pieces.
    """

    def __init__(self, config: ConvNARConfig, vocabulary: int, num_ontology_tokens: int, max_positions: int) -> None:
        c = config
        encoder = LightConvEncoder(
            vocabulary, c.width, c.encoder_kernels, c.encoder_conv_heads, c.encoder_self_heads,
            c.encoder_feed_forward, c.dropout, c.input_dropout, max_positions,
        )  # fmt: skip
        blocks = [
            LightConvBlock(
                c.width, kernel, c.decoder_conv_heads, c.decoder_self_heads, c.decoder_cross_heads,
                c.decoder_feed_forward, c.dropout,
            )
            for kernel in c.decoder_kernels
        ]  # fmt: skip
        causal = c.causal_blocks(c.decoder_cross_heads, c.decoder_feed_forward)
        super().__init__(config, encoder, blocks, num_ontology_tokens, causal, c.pointer_copy)
