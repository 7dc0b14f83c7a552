"""What parsers on a transformer encoder share under Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from frames.errors import UsageError
from frames.tokenization import MAX_PIECES, PieceTokenizer
from lightning_modules.parser_module import ParserModule
from lightning_modules.saved import encoder_config_of
from parsers.pretrained import PretrainedEncoder, build_transformer, load_transformer, position_limit


class PretrainedModule(ParserModule):
    """A parser whose options name an encoder (:class:`parsers.pretrained.EncoderConfig`).

    Attributes:
        encoder_config: the encoder's architecture (``PretrainedConfig.to_dict``), so that a checkpoint needs no network;
            empty until the encoder has been loaded.
    """

    def __init__(self, model: Any, decoding: Any, optimization: Any) -> None:
        super().__init__(model, decoding, optimization)
        self.encoder_config: dict[str, Any] = model.encoder if isinstance(model.encoder, dict) else {}

    @property
    def sizes(self) -> Any:
        """See :attr:`ParserModule.sizes`."""
        return replace(self.config, encoder=self.encoder_config or self.config.encoder)

    def restore(self, metadata: Mapping[str, Any]) -> None:
        """See :meth:`ParserModule.restore`."""
        self.encoder_config = encoder_config_of(metadata)

    def metadata(self) -> dict[str, Any]:
        """See :meth:`ParserModule.metadata`; the encoder's architecture as well."""
        return {**super().metadata(), "encoder_config": self.encoder_config}

    def make_transformer(self, tokenizer: PieceTokenizer) -> PreTrainedModel:
        """The encoder, with its weights unless a checkpoint's are about to be loaded into it.

        Raises:
            UsageError: the encoder cannot be had, or the pieces are not the encoder's.
        """
        if self.encoder_config:
            transformer = build_transformer(self.encoder_config)
        else:
            transformer = load_transformer(self.config.encoder)
            self.encoder_config = transformer.config.to_dict()
            # Where the weights came from is a fact of this machine; what they are is in ``encoder``.
            self.encoder_config.pop("_name_or_path", None)
        if tokenizer.vocab_size > transformer.config.vocab_size:
            raise UsageError(
                "E423",
                f"the tokenizer has {tokenizer.vocab_size} pieces, the encoder {transformer.config.vocab_size}.",
                remedy="Set data.pretrained to the same encoder as model.encoder.",
            )
        return transformer

    @property
    def longest_utterance(self) -> int:
        """See :meth:`ParserModule.longest_utterance`; an encoder has only so many positions."""
        encoder = self.net.encoder
        assert isinstance(encoder, PretrainedEncoder)
        limit = position_limit(encoder.transformer)
        return super().longest_utterance - max(0, MAX_PIECES - (limit or MAX_PIECES))

    def rate(self, name: str) -> float:
        """The encoder has a rate of its own."""
        own = self.optimization.encoder_lr
        if own is None or not name.startswith(("model.encoder.transformer.", "model.scenario_encoder.transformer.")):
            return super().rate(name)
        return own
