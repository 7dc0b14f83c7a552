"""Span pointer network: a pretrained encoder, a length, and a transformer that decodes all positions at once.

Shrivastava, Chuang, Babu, Desai, Arora, Zotov, Aly. Findings of EMNLP 2021, arXiv 2104.07275.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from parsers.encoders import TransformerBlock
from parsers.nar_model import NARConfig, NARModel
from parsers.pretrained import PretrainedEncoder


@dataclass
class SpanPointerConfig(NARConfig):
    """Sizes of the model; ``configs/span_pointer_roberta.yaml`` holds the paper's.

    Attributes:
        encoder: hub name, local folder, or ``minilm``.
        encoder_config: what the encoder is made of; filled in on loading, so that a checkpoint needs no network.
        encoder_dropout: inside the encoder; None keeps its own.
        train_embeddings: whether the encoder's embeddings of pieces are fitted as well; left as they are, half of a
            small encoder's parameters need neither gradients nor optimizer.
        decoder_layers: blocks of the decoder.
        decoder_heads: heads of its attention.
        decoder_self_attention: whether positions of the target see each other.
        decoder_feed_forward: inner width of its feed-forward parts.
    """

    encoder: str = "minilm"
    encoder_config: dict[str, Any] = field(default_factory=dict)
    encoder_dropout: float | None = None
    train_embeddings: bool = True
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_self_attention: bool = True
    decoder_feed_forward: int = 768


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
        prefix: Sequence[int],
        suffix: Sequence[int],
        ontology: int,
    ) -> None:
        c = config
        encoder = PretrainedEncoder(transformer, prefix, suffix, c.width, c.encoder_dropout)
        transformer.get_input_embeddings().requires_grad_(c.train_embeddings)
        self_heads = c.decoder_heads if c.decoder_self_attention else 0
        blocks = [
            TransformerBlock(c.width, self_heads, c.decoder_heads, c.decoder_feed_forward, c.dropout)
            for _ in range(c.decoder_layers)
        ]
        super().__init__(config, encoder, blocks, ontology)
