"""LightConv Pointer: encode, predict the length, decode all positions at once.

Babu, Shrivastava, Aghajanyan, Aly, Fan, Ghazvininejad. NAACL 2021, arXiv 2104.04923.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from parsers.encoders import LightConvBlock, LightConvEncoder
from parsers.length import LengthModule
from parsers.nar_model import NARModel
from parsers.pointer import PointerHead


@dataclass
class ConvNARConfig:
    """Sizes of the model. The defaults are ours; ``configs/conv_nar_paper.yaml`` holds the paper's.

    Attributes:
        width: channels everywhere.
        encoder_kernels: taps of each encoder block.
        encoder_conv_heads: heads of the encoder's convolutions.
        encoder_self_heads: heads of self-attention in the encoder, 0 for none.
        encoder_feed_forward: inner width of the encoder's feed-forward parts.
        decoder_kernels: taps of each decoder block.
        decoder_conv_heads: heads of the decoder's convolutions.
        decoder_self_heads: heads of self-attention in the decoder.
        decoder_cross_heads: heads of attention to the encoder.
        decoder_feed_forward: inner width of the decoder's feed-forward parts.
        pointer_heads: heads of the pointer.
        pointer_copy: ``positions`` (ours) or ``types`` (the paper).
        length_hidden: channels of the length module.
        length_kernels: taps of its convolutions.
        length_pooling: ``mean`` (the paper) or ``mean_max``.
        length_embedding: whether the decoder is told the total length at every position (ours).
        dropout: inside blocks.
        input_dropout: on embeddings of pieces and of target positions.
        length_dropout: inside the length module.
        max_length: longest target; also the number of length classes less one.
        reads_tokens: whether the decoder reads tokens already decided, which conditional masked training and
            mask-predict need.
    """

    width: int = 256
    encoder_kernels: list[int] = field(default_factory=lambda: [3, 7, 15, 21])
    encoder_conv_heads: int = 8
    encoder_self_heads: int = 4
    encoder_feed_forward: int = 512
    decoder_kernels: list[int] = field(default_factory=lambda: [7, 27])
    decoder_conv_heads: int = 8
    decoder_self_heads: int = 4
    decoder_cross_heads: int = 4
    decoder_feed_forward: int = 512
    pointer_heads: int = 8
    pointer_copy: str = "positions"
    length_hidden: int = 256
    length_kernels: list[int] = field(default_factory=lambda: [3])
    length_pooling: str = "mean_max"
    length_embedding: bool = True
    dropout: float = 0.2
    input_dropout: float = 0.2
    length_dropout: float = 0.3
    max_length: int = 79
    reads_tokens: bool = False


class ConvNAR(NARModel):
    """Lightweight convolutions in encoder and decoder.

    Args:
        config: sizes.
        vocabulary: pieces of the tokenizer.
        ontology: ontology tokens.
        max_positions: longest utterance, in pieces.
    """

    def __init__(self, config: ConvNARConfig, vocabulary: int, ontology: int, max_positions: int) -> None:
        c = config
        encoder = LightConvEncoder(
            vocabulary, c.width, c.encoder_kernels, c.encoder_conv_heads, c.encoder_self_heads,
            c.encoder_feed_forward, c.dropout, c.input_dropout, max_positions,
        )  # fmt: skip
        length = LengthModule(
            c.width, c.length_hidden, c.length_kernels, c.max_length + 1, c.length_dropout, c.length_pooling
        )
        blocks = [
            LightConvBlock(
                c.width, kernel, c.decoder_conv_heads, c.decoder_self_heads, c.decoder_cross_heads,
                c.decoder_feed_forward, c.dropout,
            )
            for kernel in c.decoder_kernels
        ]  # fmt: skip
        head = PointerHead(c.width, ontology, c.pointer_heads, c.pointer_copy)
        super().__init__(
            encoder, length, blocks, head, c.width, c.max_length, c.length_embedding, c.reads_tokens, c.input_dropout
        )
