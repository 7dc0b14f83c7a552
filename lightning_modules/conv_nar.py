"""Training of the convolutional parser."""

from __future__ import annotations

from frames.tokenization import MAX_PIECES, PieceTokenizer
from lightning_modules.nar import NARModule, NAROptimizationConfig
from parsers.conv_nar.model import ConvNAR, ConvNARConfig
from parsers.nar import DecodingConfig


class ConvNARModule(NARModule):
    """LightConv Pointer (Babu et al. 2021) under Lightning.

    Args:
        model: sizes.
        decoding: how validation, and later use, turns scores into frames.
        optimization: how the parameters are fitted.
    """

    kind = "conv_nar"
    config_class = ConvNARConfig

    def __init__(
        self,
        model: ConvNARConfig = ConvNARConfig(),  # noqa: B008 (LightningCLI shows the defaults)
        decoding: DecodingConfig = DecodingConfig(),  # noqa: B008
        optimization: NAROptimizationConfig = NAROptimizationConfig(),  # noqa: B008
    ) -> None:
        super().__init__(model, decoding, optimization)

    def make_model(self, tokenizer: PieceTokenizer, num_ontology_tokens: int) -> ConvNAR:
        """See :meth:`NARModule.make_model`."""
        return ConvNAR(self.config, tokenizer.vocab_size, num_ontology_tokens, MAX_PIECES)
