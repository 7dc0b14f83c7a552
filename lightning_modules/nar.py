"""Training of non-autoregressive parsers: length and all positions in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from data.training.batches import Batch
from lightning_modules.distillation import Teacher
from lightning_modules.losses import (
    causal_scores,
    divergence,
    mean_over_targets,
    smoothed_nll,
    symmetric_divergence,
    target_mask,
    target_nll,
)
from lightning_modules.parser_module import OptimizationConfig, ParserModule, TargetLogProbs
from parsers.nar import MASKED, DecodingConfig, NonAutoregressiveParser
from parsers.nar_model import NARConfig, NARModel
from parsers.torch_backend import TorchBackend

#: Size of the noise on the embeddings that R3F adds.
R3F_NOISE = 1e-5
#: Share of the loss that is the divergence from the teacher, where there is one.
TEACHER_SHARE = 0.5


@dataclass
class NAROptimizationConfig(OptimizationConfig):
    """What is particular to predicting a length and all positions at once.

    Attributes:
        length_loss_weight: weight of the length loss (paper's beta: 0.28).
        length_smoothing: label smoothing of the length loss (paper: 0.39).
        r3f_weight: weight of the divergence between what is predicted with and without noise on the embeddings
            (R3F, Aghajanyan et al. 2020b), 0 to leave it out; it costs a second pass.
        teacher: checkpoint of any kind of parser, with the same pieces, labels and form, whose distributions over
            tokens (and lengths, if it predicts them) are learned beside the gold targets (Hinton et al. 2015).
    """

    length_loss_weight: float = 0.28
    length_smoothing: float = 0.1
    r3f_weight: float = 0.0
    teacher: str | None = None


class NARModule(ParserModule):
    """A non-autoregressive parser under Lightning; a kind of parser says how its model is built.

    Args:
        model: sizes.
        decoding: how validation, and later use, turns scores into frames.
        optimization: how the parameters are fitted.
    """

    decoding_class = DecodingConfig
    optimization_class = NAROptimizationConfig
    model: NARModel | None
    net: NARModel

    def __init__(self, model: NARConfig, decoding: DecodingConfig, optimization: NAROptimizationConfig) -> None:
        super().__init__(model, decoding, optimization)
        self._teacher: Teacher | None = None

    def on_fit_start(self) -> None:
        """Reads the teacher before anything of an earlier run is replaced."""
        super().on_fit_start()
        if self.optimization.teacher is not None:
            self._teacher = self._read_teacher(self.optimization.teacher)

    def check_decoding(self, decoding: DecodingConfig) -> None:
        """See :meth:`ParserModule.check_decoding`; only a model with a rescorer rescores."""
        if decoding.num_rescored and not self.config.rescoring_layers:
            raise ValueError("decoding.num_rescored needs model.rescoring_layers of at least 1")

    def parser(self) -> NonAutoregressiveParser:
        """See :meth:`ParserModule.parser`."""
        backend, assets = TorchBackend(self.net), self.built
        return NonAutoregressiveParser(backend, assets.tokenizer, assets.ontology, assets.form, self.decoding)

    def target_log_probs(self, batch: Batch) -> TargetLogProbs:
        """See :meth:`ParserModule.target_log_probs`; the decoder reads lengths alone, the rescorer the tokens before each."""
        memory, lengths = self.net.encode(batch.pieces, batch.mask)
        return TargetLogProbs(lengths, self._scores(batch, memory), self._causal(batch, memory))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Token, length and total loss, each a scalar."""
        return self.frame_losses(batch, *self.net.encode(batch.pieces, batch.mask))

    def frame_losses(self, batch: Batch, memory: Tensor, length_scores: Tensor) -> dict[str, Tensor]:
        """As :meth:`losses`, for utterances already encoded (see :meth:`parsers.nar_model.NARModel.encode`)."""
        o, size, real = self.optimization, self.net.ontology_size, target_mask(batch)

        def token_nll(scores: Tensor) -> Tensor:
            return mean_over_targets(target_nll(scores, batch, o.label_smoothing, size), real)

        scores, causal = self._scores(batch, memory), self._causal(batch, memory)
        losses = {
            "tokens": token_nll(scores),
            "length": smoothed_nll(length_scores, batch.lengths, o.length_smoothing).mean(),
        }
        loss = losses["tokens"] + o.length_loss_weight * losses["length"]
        if causal is not None:
            losses["rescorer"] = token_nll(causal)
            loss = loss + losses["rescorer"]
        if o.teacher is not None:
            apart = self._divergence_from_teacher(batch, TargetLogProbs(length_scores, scores, causal))
            loss = (1 - TEACHER_SHARE) * loss + TEACHER_SHARE * apart
        if o.r3f_weight:
            noisy_memory, noisy_lengths = self.net.encode(batch.pieces, batch.mask, R3F_NOISE)
            apart = mean_over_targets(symmetric_divergence(scores, self._scores(batch, noisy_memory)), real)
            loss = loss + o.r3f_weight * (apart + symmetric_divergence(length_scores, noisy_lengths).mean())
        return {"loss": loss, **losses}

    def _divergence_from_teacher(self, batch: Batch, student: TargetLogProbs) -> Tensor:
        """Divergence of the student's distributions from the teacher's, weighted as the losses are; a scalar."""
        if self._teacher is None:
            assert self.optimization.teacher is not None
            self._teacher = self._read_teacher(self.optimization.teacher)
        o, real, teacher = self.optimization, target_mask(batch), self._teacher.target_log_probs(batch)
        apart = mean_over_targets(divergence(teacher.tokens, student.tokens), real)
        if teacher.lengths is not None and student.lengths is not None:
            apart = apart + o.length_loss_weight * divergence(teacher.lengths, student.lengths).mean()
        if student.causal is not None:
            # A teacher without a rescorer may be autoregressive itself; otherwise its decoder serves the rescorer as well.
            wanted = teacher.tokens if teacher.causal is None else teacher.causal
            apart = apart + mean_over_targets(divergence(wanted, student.causal), real)
        return apart

    def _read_teacher(self, path: str) -> Teacher:
        return Teacher(path, self.built, self.config.max_length, self.device)

    def _causal(self, batch: Batch, memory: Tensor) -> Tensor | None:
        """The rescorer's log-probabilities of all target positions ``[targets, V + S]``, None without a rescorer."""
        return None if self.net.rescorer is None else causal_scores(self.net.rescorer, memory, batch)

    def _scores(self, batch: Batch, memory: Tensor) -> Tensor:
        """Log-probabilities of all target positions ``[targets, V + S]``, decoded at once."""
        masked = [torch.full_like(targets, MASKED) for targets in batch.targets]
        scores = self.net.decode_groups(memory, batch.pieces, batch.mask, masked, batch.target_masks, batch.lengths)
        return scores.flatten(0, -2)
