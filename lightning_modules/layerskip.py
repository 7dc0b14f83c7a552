"""Training of a language model by the LayerSkip recipe (Elhoushi et al. 2024, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from data.training.batches import PAD_TARGET, Batch
from frames.errors import UsageError
from frames.tokenization import PieceTokenizer, Source
from lightning_modules.datamodule import Assets
from lightning_modules.parser_module import OptimizationConfig, ParserModule, TargetLogProbs
from parsers.layerskip.automaton import spelled
from parsers.layerskip.decoding import LayerSkipDecodingConfig
from parsers.layerskip.model import (
    LayerSkip,
    LayerSkipConfig,
    build_language_model,
    label_pieces,
    load_language_model,
)
from parsers.layerskip.parser import LayerSkipParser, check_exit
from parsers.layerskip.recipe import RecipeConfig, draw_kept, exit_weights, skip_probabilities
from parsers.layerskip.spelling import Spelling
from parsers.layerskip.torch_backend import TorchBackend

#: Lengths of sequences, and numbers of scored places, are rounded up to a multiple of these. In bf16 a processor compiles and keeps
#: a kernel for every new shape, which costs more time and memory than the padding.
LENGTHS, PLACES = 4, 256


@dataclass
class LayerSkipOptimizationConfig(RecipeConfig, OptimizationConfig):
    """How the language model is fitted: :class:`OptimizationConfig` and the recipe."""


class Sequences(NamedTuple):
    """Prompts with their frames, as the language model reads them.

    Attributes:
        tokens: ``[B, T]``, padded at the end.
        prompts: ``[B]`` tokens before each frame.
        before: ``[N]`` places, in the flattened tokens, that stand before a token of a frame.
        targets: ``[N]`` the tokens of the frames.
    """

    tokens: Tensor
    prompts: Tensor
    before: Tensor
    targets: Tensor


class LayerSkipModule(ParserModule):
    """A causal language model that writes frames, with early exits, under Lightning.

    Args:
        model: the language model, and how frames are written.
        decoding: how validation, and later use, writes frames.
        optimization: how the parameters are fitted.
    """

    kind = "layerskip"
    forms = ("copy",)
    config_class = LayerSkipConfig
    decoding_class = LayerSkipDecodingConfig
    optimization_class = LayerSkipOptimizationConfig
    model: LayerSkip | None  # type: ignore[assignment]
    net: LayerSkip  # type: ignore[assignment]
    config: LayerSkipConfig
    optimization: LayerSkipOptimizationConfig

    def __init__(
        self,
        model: LayerSkipConfig = LayerSkipConfig(),  # noqa: B008 (LightningCLI shows the defaults)
        decoding: LayerSkipDecodingConfig = LayerSkipDecodingConfig(),  # noqa: B008
        optimization: LayerSkipOptimizationConfig = LayerSkipOptimizationConfig(),  # noqa: B008
    ) -> None:
        super().__init__(model, decoding, optimization)
        self.spelling: Spelling | None = None

    def build(self, assets: Assets) -> None:
        """See :meth:`ParserModule.build`.

        Raises:
            UsageError: also, the model has too few layers for its decoding.
        """
        super().build(assets)
        # Before a training begins, not at its first validation.
        self.check_decoding(self.decoding)

    def make_model(self, tokenizer: PieceTokenizer, num_ontology_tokens: int) -> LayerSkip:  # type: ignore[override]
        """See :meth:`ParserModule.make_model`; a checkpoint's configuration is built without its weights."""
        c = self.config
        self.spelling = Spelling.of(self.built.ontology, tokenizer, c.style)
        if c.language_model is not None and not c.language_model_config:
            language_model = load_language_model(c.language_model)
            c.language_model_config = language_model.config.to_dict()
            # Where the weights came from is a fact of this machine; what they are is in ``language_model``.
            for name in ("_name_or_path", "quantization_config"):
                c.language_model_config.pop(name, None)
            pieces = label_pieces(self.spelling, tokenizer)
        else:
            language_model, pieces = build_language_model(c, tokenizer.vocab_size), None
        return LayerSkip(c, language_model, self.spelling, pieces)

    def check_decoding(self, decoding: LayerSkipDecodingConfig) -> None:
        """See :meth:`ParserModule.check_decoding`; how many layers there are is known once the model is built.

        Raises:
            UsageError: see :func:`parsers.layerskip.parser.check_exit`.
        """
        if self.model is not None:
            check_exit(decoding.exit_layer, self.net.depth)

    @property
    def longest_utterance(self) -> int:
        """See :meth:`ParserModule.longest_utterance`; a language model has only so many positions for utterance and frame."""
        assert self.spelling is not None
        room = self.net.context - len(self.built.tokenizer.prefix) - 1 - 2 * self.spelling.longest_node
        return min(super().longest_utterance, max(0, room // 3))

    def parser(self) -> LayerSkipParser:  # type: ignore[override]
        """See :meth:`ParserModule.parser`."""
        assets = self.built
        assert self.spelling is not None
        backend = TorchBackend(self.net)
        return LayerSkipParser(
            backend, assets.tokenizer, assets.ontology, self.spelling, self.decoding, self.net.context
        )

    def target_log_probs(self, batch: Batch) -> TargetLogProbs:
        """See :meth:`ParserModule.target_log_probs`.

        Raises:
            UsageError: always; its distributions are over other tokens than those of the other parsers.
        """
        raise UsageError(
            "E489", "a LayerSkip parser cannot be the teacher of another kind.", remedy="Name another teacher."
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Spells training rows as sequences while they are still in the main memory."""
        return self.sequences(batch) if isinstance(batch, Batch) else batch

    def sequences(self, batch: Batch) -> Sequences:
        """The rows of a batch as the language model reads them."""
        assert self.spelling is not None
        prefix = self.built.tokenizer.prefix
        counts = (
            batch.mask.sum(dim=1) if batch.mask is not None else torch.full((len(batch.pieces),), batch.pieces.shape[1])
        )
        rows = [row[:count] for row, count in zip(batch.pieces.tolist(), counts.tolist(), strict=True)]
        symbols = [[s for s in row if s != PAD_TARGET] for group in batch.targets for row in group.tolist()]
        # Only a source's ids and length are read here.
        frames = [
            spelled(row, Source("", tuple(pieces), (), (), ()), self.spelling)
            for row, pieces in zip(symbols, rows, strict=True)
        ]
        prompts = [[*prefix, *pieces, self.spelling.prompt_end] for pieces in rows]
        longest = max(len(prompt) + len(frame) for prompt, frame in zip(prompts, frames, strict=True))
        width = min(longest + -longest % LENGTHS, max(longest, self.net.context))
        tokens = np.zeros((len(rows), width), dtype=np.int64)
        before = []
        for i, (prompt, frame) in enumerate(zip(prompts, frames, strict=True)):
            tokens[i, : len(prompt) + len(frame)] = prompt + frame
            first = i * width + len(prompt) - 1
            before.append(np.arange(first, first + len(frame)))
        places = np.concatenate(before)
        return Sequences(
            torch.from_numpy(tokens),
            torch.tensor([len(prompt) for prompt in prompts]),
            torch.from_numpy(places),
            torch.from_numpy(tokens.reshape(-1)[places + 1]),
        )

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Loss of the last layer, of the early exits that count at this step, and of both together; scalars."""
        given: Sequences = self.sequences(batch) if isinstance(batch, Batch) else batch
        o, net = self.optimization, self.net
        progress = self._progress(self.global_step)
        weights = exit_weights(o, net.depth, progress, self.global_step)
        exits = [layer for layer, weight in enumerate(weights) if weight > 0]
        kept = draw_kept(skip_probabilities(o, net.depth, progress), len(given.tokens), given.tokens.device)
        states = net(given.tokens, self._mask(given), kept, exits)
        count = len(given.before)
        places = F.pad(given.before, (0, -count % PLACES))
        logits = [net.logits(state.flatten(0, 1)[places])[:count].float() for state in states]
        last = F.cross_entropy(logits[-1], given.targets, label_smoothing=o.label_smoothing)
        loss, found = weights[-1] * last, {"last": last}
        wanted = torch.log_softmax(logits[-1].detach(), dim=-1) if o.exit_targets == "last" else None
        for layer, scores in zip(exits[:-1], logits[:-1], strict=True):
            if wanted is None:
                early = F.cross_entropy(scores, given.targets, label_smoothing=o.label_smoothing)
            else:
                early = F.kl_div(torch.log_softmax(scores, dim=-1), wanted, log_target=True, reduction="batchmean")
            loss = loss + weights[layer] * early
            found["exits"] = found.get("exits", 0.0) + early.detach() / (len(exits) - 1)
        return {"loss": loss, **found}

    def _mask(self, given: Sequences) -> Tensor | None:
        """``[B, 1, T, T]``, True where a token sees; None where every token sees itself and those before it."""
        if not self.config.read_both_ways:
            return None
        steps = torch.arange(given.tokens.shape[1], device=given.tokens.device)
        inside = steps < given.prompts[:, None]
        return ((steps <= steps[:, None]) | (inside[:, None, :] & inside[:, :, None]))[:, None]
