"""Training of span pointer networks."""

from __future__ import annotations

import re

from data.topv2.errors import UsageError
from data.topv2.tokenization import PieceTokenizer
from lightning_modules.nar import NARModule, OptimizationConfig
from parsers.nar import DecodingConfig
from parsers.pretrained import build_transformer, load_transformer
from parsers.span_pointer.model import SpanPointer, SpanPointerConfig


class SpanPointerModule(NARModule):
    """Span pointer network (Shrivastava et al. 2021) under Lightning; the index form makes it the paper's baseline.

    Args:
        model: sizes, and the pretrained encoder.
        decoding: how validation, and later use, turns scores into frames.
        optimization: how the parameters are fitted.
    """

    kind = "span_pointer"
    config_class = SpanPointerConfig

    def __init__(
        self,
        model: SpanPointerConfig = SpanPointerConfig(),  # noqa: B008 (LightningCLI shows the defaults)
        decoding: DecodingConfig = DecodingConfig(),  # noqa: B008
        optimization: OptimizationConfig = OptimizationConfig(),  # noqa: B008
    ) -> None:
        super().__init__(model, decoding, optimization)

    def make_model(self, tokenizer: PieceTokenizer, ontology: int) -> SpanPointer:
        """See :meth:`NARModule.make_model`.

        Raises:
            UsageError: the encoder cannot be had, or the pieces are not the encoder's.
        """
        if self.config.encoder_config:
            transformer = build_transformer(self.config.encoder_config)
        else:
            transformer = load_transformer(self.config.encoder)
            self.config.encoder_config = transformer.config.to_dict()
            # Where the weights came from is a fact of this machine; what they are is in ``encoder``.
            self.config.encoder_config.pop("_name_or_path", None)
        if tokenizer.vocab_size > transformer.config.vocab_size:
            raise UsageError(
                "E423",
                f"the tokenizer has {tokenizer.vocab_size} pieces, the encoder {transformer.config.vocab_size}.",
                remedy="Set data.pretrained to the same encoder as model.encoder.",
            )
        return SpanPointer(self.config, transformer, tokenizer.prefix, tokenizer.suffix, ontology)

    def rate(self, name: str) -> float:
        """The encoder's own rate, lower in the layers nearer to the input."""
        o = self.optimization
        if not name.startswith("model.encoder.transformer."):
            return o.lr
        top = o.lr if o.encoder_lr is None else o.encoder_lr
        layers = self.config.encoder_config["num_hidden_layers"]
        found = re.search(r"\.layer\.(\d+)\.", name)
        depth = layers - 1 - int(found[1]) if found else layers
        return top * o.layer_decay**depth
