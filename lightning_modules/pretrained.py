"""What parsers on a pretrained encoder share under Lightning."""

from __future__ import annotations

from transformers import PreTrainedModel

from frames.errors import UsageError
from frames.tokenization import MAX_PIECES, PieceTokenizer
from lightning_modules.parser_module import ParserModule
from parsers.pretrained import PretrainedEncoder, build_transformer, load_transformer, position_limit


class PretrainedModule(ParserModule):
    """A parser whose sizes name a pretrained encoder (:class:`parsers.pretrained.EncoderConfig`)."""

    def make_transformer(self, tokenizer: PieceTokenizer) -> PreTrainedModel:
        """The encoder, with its weights unless a checkpoint's are about to be loaded into it.

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
