"""Span pointer network: a pretrained encoder, a length, and a transformer that decodes all positions at once.

Shrivastava, Chuang, Babu, Desai, Arora, Zotov, Aly. Findings of EMNLP 2021, arXiv 2104.07275.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from parsers.encoders import TransformerBlock
from parsers.length import LengthModule
from parsers.nar_model import NARModel
from parsers.pointer import PointerHead
from parsers.pretrained import PretrainedEncoder


@dataclass
class SpanPointerConfig:
    """Sizes of the model. The defaults are ours; ``configs/span_pointer_roberta.yaml`` holds the paper's.

    Attributes:
        encoder: hub name, local folder, or ``minilm``.
        encoder_config: what the encoder is made of; filled in on loading, so that a checkpoint needs no network.
        encoder_dropout: inside the encoder; None keeps its own.
        width: channels of the decoder.
        decoder_layers: blocks of the decoder.
        decoder_heads: heads of its attention.
        decoder_self_attention: whether positions of the target see each other.
        decoder_feed_forward: inner width of its feed-forward parts.
        pointer_heads: heads of the pointer.
        pointer_copy: ``positions`` or ``types``, see :class:`parsers.pointer.PointerHead`.
        length_hidden: channels of the length module.
        length_kernels: taps of its convolutions; none gives a perceptron on the pooled states, as in the paper.
        length_pooling: ``mean`` (the paper) or ``mean_max``.
        length_embedding: whether the decoder is told the total length at every position (ours).
        dropout: inside the decoder's blocks.
        input_dropout: on embeddings of target positions.
        length_dropout: inside the length module.
        max_length: longest target; also the number of length classes less one.
        reads_tokens: whether the decoder reads tokens already decided.
    """

    encoder: str = "minilm"
    encoder_config: dict[str, Any] = field(default_factory=dict)
    encoder_dropout: float | None = None
    width: int = 384
    decoder_layers: int = 2
    decoder_heads: int = 6
    decoder_self_attention: bool = True
    decoder_feed_forward: int = 768
    pointer_heads: int = 8
    pointer_copy: str = "positions"
    length_hidden: int = 384
    length_kernels: list[int] = field(default_factory=lambda: [3])
    length_pooling: str = "mean_max"
    length_embedding: bool = True
    dropout: float = 0.1
    input_dropout: float = 0.1
    length_dropout: float = 0.1
    max_length: int = 79
    reads_tokens: bool = False


class SpanPointer(NARModel):
    """A pretrained encoder and a transformer decoder.

    Args:
        config: sizes.
        transformer: the encoder.
        prefix: special ids before an utterance.
        suffix: special ids after it.
        ontology: ontology tokens.
    """

    def __init__(
        self,
        config: SpanPointerConfig,
        transformer: PreTrainedModel,
        prefix: list[int],
        suffix: list[int],
        ontology: int,
    ) -> None:
        c = config
        encoder = PretrainedEncoder(transformer, prefix, suffix, c.width, c.encoder_dropout)
        length = LengthModule(
            c.width, c.length_hidden, c.length_kernels, c.max_length + 1, c.length_dropout, c.length_pooling
        )
        self_heads = c.decoder_heads if c.decoder_self_attention else 0
        blocks = [
            TransformerBlock(c.width, self_heads, c.decoder_heads, c.decoder_feed_forward, c.dropout)
            for _ in range(c.decoder_layers)
        ]
        head = PointerHead(c.width, ontology, c.pointer_heads, c.pointer_copy)
        super().__init__(
            encoder, length, blocks, head, c.width, c.max_length, c.length_embedding, c.reads_tokens, c.input_dropout
        )
