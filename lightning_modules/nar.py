"""Training of non-autoregressive parsers: length and all positions in one pass."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from data.topv2.batches import PAD_TARGET, Batch
from data.topv2.errors import BundleError
from data.topv2.linearization import TargetIds
from data.topv2.ontology import Ontology
from data.topv2.tokenization import PieceTokenizer
from lightning_modules.datamodule import Assets, TOPv2DataModule
from lightning_modules.losses import smoothed_nll, symmetric_divergence
from lightning_modules.metrics import FrameExactMatch
from lightning_modules.saved import parameters_of, read_checkpoint
from parsers.mask_predict import MASKED
from parsers.nar import DecodingConfig, NonAutoregressiveParser
from parsers.nar_model import NARModel
from parsers.torch_backend import TorchBackend


@dataclass
class OptimizationConfig:
    """How the parameters are fitted.

    Attributes:
        lr: peak learning rate of AdamW.
        weight_decay: on matrices; biases and norms are spared.
        warmup: share of the steps in which the rate rises, before it falls along a cosine to zero.
        label_smoothing: of the token loss (paper: 0.1).
        length_weight: weight of the length loss (paper's beta: 0.28).
        length_smoothing: label smoothing of the length loss (paper: 0.39).
        encoder_lr: peak rate of a pretrained encoder's top layer, None for ``lr``.
        r3f_weight: weight of the divergence between what is predicted with and without noise on the embeddings
            (R3F, Aghajanyan et al. 2020b), 0 to leave it out; it costs a second pass.
        r3f_noise: size of that noise.
        layer_decay: factor of the rate from each layer of a pretrained encoder to the one below it.
        masking: ``everything`` hides every target position (the paper's TOP config); ``uniform`` hides a
            uniformly drawn number of them (conditional masked training), for mask-predict.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    label_smoothing: float = 0.1
    length_weight: float = 0.28
    length_smoothing: float = 0.1
    r3f_weight: float = 0.0
    r3f_noise: float = 1e-5
    encoder_lr: float | None = None
    layer_decay: float = 1.0
    masking: str = "everything"

    def __post_init__(self) -> None:
        if self.masking not in ("everything", "uniform"):
            raise ValueError(f"masking {self.masking!r}: 'everything' or 'uniform'")


class NARModule(pl.LightningModule):
    """A non-autoregressive parser under Lightning; a kind of parser says how its model is built.

    Args:
        model: sizes.
        decoding: how validation, and later use, turns scores into frames.
        optimization: how the parameters are fitted.
    """

    #: Name of the kind in checkpoints and manifests, and the class of its sizes.
    kind: ClassVar[str]
    config_class: ClassVar[type]

    def __init__(self, model: Any, decoding: DecodingConfig, optimization: OptimizationConfig) -> None:
        super().__init__()
        if decoding.passes > 1 and not model.reads_tokens:
            raise ValueError("decoding.passes > 1 needs model.reads_tokens: true and optimization.masking: uniform")
        if optimization.masking == "uniform" and not model.reads_tokens:
            raise ValueError("optimization.masking: uniform needs model.reads_tokens: true")
        self.config, self.decoding, self.optimization = model, decoding, optimization
        self.model: NARModel | None = None
        self.assets: Assets | None = None
        self.metric: FrameExactMatch | None = None

    @abstractmethod
    def make_model(self, tokenizer: PieceTokenizer, ontology: int) -> NARModel:
        """The model for these pieces and this number of ontology tokens."""

    def configure_model(self) -> None:
        """Builds the model once the data module knows the vocabulary and the ontology."""
        if self.model is None:
            datamodule = self._datamodule()
            assert datamodule.assets is not None
            self.build(datamodule.assets)
            if datamodule.hparams["start"]:
                self._take_over(datamodule.hparams["start"])
            self.metric = FrameExactMatch(datamodule.domains)

    def _take_over(self, path: str) -> None:
        """Starts from the parameters of a checkpoint of the same sizes."""
        assert self.model is not None and self.assets is not None
        checkpoint = read_checkpoint(path)
        old = Ontology.from_dict(checkpoint["framefill"]["assets"]["ontology"], path).tokens
        try:
            self.model.load_narrower(parameters_of(checkpoint), old, self.assets.ontology.tokens)
        except (KeyError, RuntimeError) as error:
            raise BundleError(
                "E305",
                f"the checkpoint's parameters do not fit this model ({str(error).splitlines()[0]}).",
                where=path,
                remedy="Give model.init_args.model the sizes that data.start was trained with.",
            ) from error

    def build(self, assets: Assets) -> None:
        """Builds the model for these pieces and labels."""
        self.assets = assets
        self.model = self.make_model(assets.tokenizer, TargetIds(assets.ontology).size)

    def parser(self) -> NonAutoregressiveParser:
        """The parser that users call, over the current parameters."""
        assert self.model is not None and self.assets is not None
        backend, assets = TorchBackend(self.model), self.assets
        return NonAutoregressiveParser(backend, assets.tokenizer, assets.ontology, assets.form, self.decoding)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        losses = self.losses(batch)
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, prog_bar=False)
        self.log("loss", losses["loss"], prog_bar=True, logger=False)
        return losses["loss"]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Token, length and total loss, each a scalar."""
        assert self.model is not None
        o = self.optimization
        hidden = [hide(targets, o.masking) for targets in batch.targets]
        length_scores, scores = self._scores(batch, [tokens for tokens, _ in hidden])
        allowed = None
        if batch.mask is not None and o.label_smoothing:
            steps = torch.cat([batch.lengths.new_full((len(t),), t.shape[1]) for t in batch.targets])
            pieces = batch.mask.repeat_interleave(steps, dim=0)
            allowed = torch.cat((pieces.new_ones(len(pieces), self.model.ontology_size), pieces), dim=1)
        targets = torch.cat([targets.flatten() for targets in batch.targets]).clamp(min=0)
        scored = torch.cat([where.flatten() for _, where in hidden])
        token_loss = (smoothed_nll(scores, targets, o.label_smoothing, allowed) * scored).sum() / scored.sum()
        length_loss = smoothed_nll(length_scores, batch.lengths, o.length_smoothing).mean()
        loss = token_loss + o.length_weight * length_loss
        if o.r3f_weight:
            moved_lengths, moved = self._scores(batch, [tokens for tokens, _ in hidden], o.r3f_noise)
            divergence = (symmetric_divergence(scores, moved) * scored).sum() / scored.sum()
            loss = loss + o.r3f_weight * (divergence + symmetric_divergence(length_scores, moved_lengths).mean())
        return {"loss": loss, "tokens": token_loss, "length": length_loss}

    def _scores(self, batch: Batch, tokens: list[Tensor], noise: float = 0.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities of lengths ``[B, C]`` and of all target places ``[places, V + S]``."""
        assert self.model is not None
        memory, lengths = self.model.encode(batch.pieces, batch.mask, noise)
        scores = self.model.decode_groups(memory, batch.pieces, batch.mask, tokens, batch.target_masks, batch.lengths)
        return lengths, scores.flatten(0, -2)

    def validation_step(self, rows: Tensor, batch_idx: int) -> None:
        """Parses eval utterances as a user would and counts exact matches."""
        datamodule = self._datamodule()
        assert self.metric is not None
        examples = [datamodule.eval_examples[row] for row in rows.tolist()]
        parsed = self.parser().parse([example.utterance for example in examples])
        self.metric.update(
            [hypotheses[0].frame for hypotheses in parsed],
            [example.frame for example in examples],
            [example.domain for example in examples],
            [(example.domain, example.utterance) in datamodule.trained_on for example in examples],
        )

    def on_validation_epoch_end(self) -> None:
        """Logs the figures that people watch; all of them are written by ``evaluate``."""
        assert self.metric is not None
        result = self.metric.compute()
        self.metric.reset()
        for name in (
            "exact_match",
            "unseen_exact_match",
            "well_formed",
            "scenario_accuracy",
            "frame_length_accuracy",
            "bracket_f1",
        ):
            self.log(f"val/{name}", float(result[name]), prog_bar=name == "exact_match")

    def rate(self, name: str) -> float:
        """Peak learning rate of a parameter."""
        return self.optimization.lr

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and a cosine."""
        o = self.optimization
        alike: dict[tuple[float, float], list[Tensor]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            decay = o.weight_decay if parameter.ndim > 1 else 0.0
            alike.setdefault((self.rate(name), decay), []).append(parameter)
        groups = [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in alike.items()]
        optimizer = torch.optim.AdamW(groups, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_cosine_schedule_with_warmup(optimizer, int(o.warmup * steps), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips the norm; Lightning's own refuses fused optimizers, for the sake of gradient scalers not used here."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a parser needs besides parameters, and the state of the random generator for exact resume."""
        assert self.assets is not None
        checkpoint["framefill"] = {
            "kind": self.kind,
            "assets": self.assets.to_dict(),
            "model": asdict(self.config),
            "decoding": asdict(self.decoding),
            "optimization": asdict(self.optimization),
            "data": {"checksum": self._datamodule().checksum, **dict(self._datamodule().hparams)},
        }
        checkpoint["rng"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the random generator, so that a resumed training draws what the unbroken one would have."""
        if "rng" in checkpoint:
            self._rng = checkpoint["rng"]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Applies the restored generator after Lightning's own start-up has drawn from it."""
        state = self.__dict__.pop("_rng", None)
        if state is not None:
            torch.set_rng_state(state)

    def _datamodule(self) -> TOPv2DataModule:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, TOPv2DataModule)
        return datamodule


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
