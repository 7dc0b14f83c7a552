"""Training of non-autoregressive parsers: length and all positions in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from data.training.batches import PAD_TARGET, Batch
from lightning_modules.distillation import Teacher
from lightning_modules.losses import (
    by_row,
    causal_scores,
    divergence,
    mean_of_places,
    mean_of_rows,
    real_places,
    smoothed_nll,
    symmetric_divergence,
    target_nll,
)
from lightning_modules.parser_module import OptimizationConfig, ParserModule, TargetLogProbs
from parsers.mask_predict import MASKED
from parsers.nar import DecodingConfig, NonAutoregressiveParser
from parsers.nar_model import NARConfig, NARModel
from parsers.torch_backend import TorchBackend


@dataclass
class NAROptimizationConfig(OptimizationConfig):
    """What is particular to predicting a length and all positions at once.

    Attributes:
        length_weight: weight of the length loss (paper's beta: 0.28).
        length_smoothing: label smoothing of the length loss (paper: 0.39).
        r3f_weight: weight of the divergence between what is predicted with and without noise on the embeddings
            (R3F, Aghajanyan et al. 2020b), 0 to leave it out; it costs a second pass.
        r3f_noise: size of that noise.
        teacher: checkpoint of any kind of parser, with the same pieces, labels and form, whose distributions over
            tokens (and lengths, if it predicts them) are learned beside the gold targets (Hinton et al. 2015).
        teacher_weight: share of the loss that is the divergence from the teacher.
        rescoring_loss: weight of the rescorer's token loss, where the model has one.
        masking: ``everything`` hides every target position (the paper's TOP config); ``uniform`` hides a
            uniformly drawn number of them (conditional masked training), for mask-predict.
    """

    length_weight: float = 0.28
    length_smoothing: float = 0.1
    r3f_weight: float = 0.0
    r3f_noise: float = 1e-5
    teacher: str | None = None
    teacher_weight: float = 0.5
    rescoring_loss: float = 1.0
    masking: str = "everything"

    def __post_init__(self) -> None:
        if self.masking not in ("everything", "uniform"):
            raise ValueError(f"masking {self.masking!r}: 'everything' or 'uniform'")


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

    def __init__(self, model: NARConfig, decoding: DecodingConfig, optimization: NAROptimizationConfig) -> None:
        super().__init__(model, decoding, optimization)
        self._taught_by: Teacher | None = None
        if decoding.passes > 1 and not model.reads_tokens:
            raise ValueError("decoding.passes > 1 needs model.reads_tokens: true and optimization.masking: uniform")
        if decoding.rescored and not getattr(model, "rescoring_layers", 0):
            raise ValueError("decoding.rescored needs model.rescoring_layers of at least 1")
        if optimization.masking == "uniform" and not model.reads_tokens:
            raise ValueError("optimization.masking: uniform needs model.reads_tokens: true")

    def parser(self) -> NonAutoregressiveParser:
        """See :meth:`ParserModule.parser`."""
        assert self.model is not None and self.assets is not None
        backend, assets = TorchBackend(self.model), self.assets
        return NonAutoregressiveParser(backend, assets.tokenizer, assets.ontology, assets.form, self.decoding)

    def target_log_probs(self, batch: Batch) -> TargetLogProbs:
        """See :meth:`ParserModule.target_log_probs`; nothing of the targets but their number is known, save to the rescorer."""
        assert self.model is not None
        memory, lengths = self.model.encode(batch.pieces, batch.mask)
        places = self._scores(batch, memory, [hide(targets, "everything")[0] for targets in batch.targets])
        return TargetLogProbs(lengths, places, self._causal(batch, memory))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Token, length and total loss, each a scalar."""
        assert self.model is not None
        return self.frame_losses(batch, *self.model.encode(batch.pieces, batch.mask))

    def frame_losses(self, batch: Batch, memory: Tensor, length_scores: Tensor) -> dict[str, Tensor]:
        """As :meth:`losses`, for utterances already encoded (see :meth:`parsers.nar_model.NARModel.encode`)."""
        assert self.model is not None
        o = self.optimization
        hidden = [hide(targets, o.masking) for targets in batch.targets]
        tokens = [shown for shown, _ in hidden]
        scores = self._scores(batch, memory, tokens)
        scored = torch.cat([where.flatten() for _, where in hidden])
        size = self.model.ontology_size
        of_places = target_nll(scores, batch, o.label_smoothing, size)
        of_lengths = smoothed_nll(length_scores, batch.lengths, o.length_smoothing)
        if batch.report is not None:
            batch.report(by_row(of_places.detach(), batch, scored) + o.length_weight * of_lengths.detach())
        token_loss, length_loss = mean_of_places(of_places, batch, scored), mean_of_rows(of_lengths, batch)
        loss = token_loss + o.length_weight * length_loss
        told = {"tokens": token_loss, "length": length_loss}
        judged = self._causal(batch, memory)
        if judged is not None:
            real = real_places(batch)
            told["rescorer"] = mean_of_places(target_nll(judged, batch, o.label_smoothing, size), batch, real)
            loss = loss + o.rescoring_loss * told["rescorer"]
        if o.teacher is not None:
            taught = self._teacher().target_log_probs(batch)
            apart = mean_of_places(divergence(taught.places, scores), batch, scored)
            if taught.lengths is not None:
                apart = apart + o.length_weight * mean_of_rows(divergence(taught.lengths, length_scores), batch)
            if judged is not None:
                # A teacher without a rescorer may be autoregressive itself; else its places serve as well.
                wanted = taught.places if taught.causal is None else taught.causal
                apart = apart + o.rescoring_loss * mean_of_places(divergence(wanted, judged), batch, real)
            loss = (1 - o.teacher_weight) * loss + o.teacher_weight * apart
        if o.r3f_weight:
            moved_memory, moved_lengths = self.model.encode(batch.pieces, batch.mask, o.r3f_noise)
            moved = self._scores(batch, moved_memory, tokens)
            shaken = mean_of_places(symmetric_divergence(scores, moved), batch, scored)
            shaken = shaken + mean_of_rows(symmetric_divergence(length_scores, moved_lengths), batch)
            loss = loss + o.r3f_weight * shaken
        return {"loss": loss, **told}

    def _causal(self, batch: Batch, memory: Tensor) -> Tensor | None:
        """What the rescorer gives the target places ``[places, V + S]``, None without one."""
        assert self.model is not None
        return None if self.model.rescorer is None else causal_scores(self.model.rescorer, memory, batch)

    def _teacher(self) -> Teacher:
        if self._taught_by is None:
            assert self.optimization.teacher is not None and self.assets is not None
            self._taught_by = Teacher(self.optimization.teacher, self.assets, self.device)
        return self._taught_by

    def _scores(self, batch: Batch, memory: Tensor, tokens: list[Tensor]) -> Tensor:
        """Log-probabilities of all target places ``[places, V + S]``."""
        assert self.model is not None
        scores = self.model.decode_groups(memory, batch.pieces, batch.mask, tokens, batch.target_masks, batch.lengths)
        return scores.flatten(0, -2)


def hide(targets: Tensor, masking: str) -> tuple[Tensor, Tensor]:
    """What the decoder sees of the targets, and which positions are scored.

    Args:
        targets: ``[B, T]`` ids, :data:`PAD_TARGET` after the end.
        masking: see :class:`OptimizationConfig`.

    Returns:
        Input ids ``[B, T]`` (:data:`MASKED` where hidden) and a mask ``[B, T]``, True where the loss counts.
    """
    real = targets != PAD_TARGET
    if masking == "everything":
        return torch.full_like(targets, MASKED), real
    drawn = torch.rand(targets.shape, device=targets.device).masked_fill(~real, 2.0)
    rank = drawn.argsort(dim=1).argsort(dim=1)
    count = (torch.rand(len(targets), device=targets.device) * real.sum(dim=1)).floor() + 1
    hidden = (rank < count[:, None]) & real
    return torch.where(hidden | ~real, MASKED, targets), hidden
