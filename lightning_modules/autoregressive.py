"""Training of the autoregressive baseline."""

from __future__ import annotations

from torch import Tensor

from data.training.batches import Batch
from frames.tokenization import PieceTokenizer
from lightning_modules.losses import causal_scores, mean_over_targets, target_mask, target_nll
from lightning_modules.parser_module import OptimizationConfig, TargetLogProbs
from lightning_modules.pretrained import PretrainedModule
from parsers.autoregressive.model import Autoregressive, AutoregressiveConfig
from parsers.autoregressive.parser import AutoregressiveDecodingConfig, AutoregressiveParser


class AutoregressiveModule(PretrainedModule):
    """Autoregressive pointer network under Lightning, trained with teacher forcing.

    Args:
        model: sizes, and the pretrained encoder.
        decoding: how validation, and later use, turns scores into frames.
        optimization: how the parameters are fitted.
    """

    kind = "autoregressive"
    config_class = AutoregressiveConfig
    decoding_class = AutoregressiveDecodingConfig
    optimization_class = OptimizationConfig
    model: Autoregressive | None
    net: Autoregressive

    def __init__(
        self,
        model: AutoregressiveConfig = AutoregressiveConfig(),  # noqa: B008 (LightningCLI shows the defaults)
        decoding: AutoregressiveDecodingConfig = AutoregressiveDecodingConfig(),  # noqa: B008
        optimization: OptimizationConfig = OptimizationConfig(),  # noqa: B008
    ) -> None:
        super().__init__(model, decoding, optimization)

    def make_model(self, tokenizer: PieceTokenizer, num_ontology_tokens: int) -> Autoregressive:
        """See :meth:`ParserModule.make_model` and :meth:`PretrainedModule.make_transformer`."""
        transformer = self.make_transformer(tokenizer)
        return Autoregressive(self.config, transformer, tokenizer.prefix, tokenizer.suffix, num_ontology_tokens)

    def parser(self) -> AutoregressiveParser:
        """See :meth:`ParserModule.parser`."""
        assets = self.built
        return AutoregressiveParser(self.net, assets.tokenizer, assets.ontology, assets.form, self.decoding)

    def target_log_probs(self, batch: Batch) -> TargetLogProbs:
        """See :meth:`ParserModule.target_log_probs`; each token given those before it."""
        memory = self.net.encoder(batch.pieces, batch.mask)
        return TargetLogProbs(None, causal_scores(self.net, memory, batch))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The token loss, a scalar."""
        losses = target_nll(
            self.target_log_probs(batch).tokens, batch, self.optimization.label_smoothing, self.net.ontology_size
        )
        return {"loss": mean_over_targets(losses, target_mask(batch))}
