"""Training of span pointer networks."""

from __future__ import annotations

from frames.tokenization import PieceTokenizer
from lightning_modules.nar import NARModule, NAROptimizationConfig
from lightning_modules.pretrained import PretrainedModule
from parsers.nar import DecodingConfig
from parsers.span_pointer.model import SpanPointer, SpanPointerConfig


class SpanPointerModule(PretrainedModule, NARModule):
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
        optimization: NAROptimizationConfig = NAROptimizationConfig(),  # noqa: B008
    ) -> None:
        super().__init__(model, decoding, optimization)

    def make_model(self, tokenizer: PieceTokenizer, num_ontology_tokens: int) -> SpanPointer:
        """See :meth:`ParserModule.make_model` and :meth:`PretrainedModule.make_transformer`."""
        transformer = self.make_transformer(tokenizer)
        return SpanPointer(self.config, transformer, tokenizer.prefix, tokenizer.suffix, num_ontology_tokens)
