"""What all parsers share under Lightning: building, validation as users parse, optimizer, checkpoints."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from torch import Tensor

from data.training.batches import Batch
from frames.errors import BundleError, UsageError
from frames.linearization import TargetIds
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from lightning_modules.attention import training_attention
from lightning_modules.datamodule import Assets, Needs, TOPv2DataModule
from lightning_modules.metrics import FrameExactMatch
from lightning_modules.resume import check_same_training
from lightning_modules.saved import parameters_of, read_checkpoint, under_present_names
from parsers.bounds import check_bounds
from parsers.interface import Parser
from parsers.pointer_network import PointerNetwork


@dataclass
class OptimizationConfig:
    """How the parameters of any parser are fitted.

    Attributes:
        lr: peak learning rate of AdamW.
        weight_decay: on matrices; biases and norms are spared.
        lr_warmup: share of the steps in which the rate rises, before it falls along a cosine to zero.
        label_smoothing: of the token loss (paper: 0.1).
        encoder_lr: peak rate of a pretrained encoder, None for ``lr``.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    lr_warmup: float = 0.05
    label_smoothing: float = 0.1
    encoder_lr: float | None = None

    def __post_init__(self) -> None:
        check_bounds(self)


class TargetLogProbs(NamedTuple):
    """A model's log-probabilities of the targets of a batch, target positions laid end to end.

    Attributes:
        lengths: ``[B, C]``, None if the model predicts none.
        tokens: ``[targets, V + S]``.
        causal: the same of a rescorer, None if there is none.
    """

    lengths: Tensor | None
    tokens: Tensor
    causal: Tensor | None = None


class ParserModule(pl.LightningModule):
    """A parser under Lightning; a kind of parser says how its model is built, scored and used.

    Args:
        model: sizes.
        decoding: how validation, and later use, turns scores into frames.
        optimization: how the parameters are fitted.
    """

    #: Name of the kind in checkpoints and manifests, the forms that it can write frames in, and the classes of its configuration.
    kind: ClassVar[str]
    forms: ClassVar[tuple[str, ...]] = ("span", "index")
    config_class: ClassVar[type]
    decoding_class: ClassVar[type]
    optimization_class: ClassVar[type]
    model: PointerNetwork | None

    def __init__(self, model: Any, decoding: Any, optimization: Any) -> None:
        super().__init__()
        self.config, self.decoding, self.optimization = model, decoding, optimization
        self.model = None
        self.check_decoding(decoding)
        self.assets: Assets | None = None
        self.metric: FrameExactMatch | None = None

    @property
    def net(self) -> PointerNetwork:
        """The model.

        Raises:
            RuntimeError: :meth:`build` was not called yet.
        """
        if self.model is None:
            raise RuntimeError("the module has no model yet: call build(assets) first")
        return self.model

    @property
    def built(self) -> Assets:
        """What the model was built for.

        Raises:
            RuntimeError: :meth:`build` was not called yet.
        """
        if self.assets is None:
            raise RuntimeError("the module has no assets yet: call build(assets) first")
        return self.assets

    @property
    def needs(self) -> Needs:
        """What this parser needs of the data besides rows."""
        return Needs()

    @property
    def sizes(self) -> Any:
        """The configuration by which the same model can be built without pretrained weights."""
        return self.config

    def check_decoding(self, decoding: Any) -> None:
        """Whether this parser, as far as it is built, can decode so; called again for options that replace its own.

        Raises:
            ValueError: it cannot.
        """

    def restore(self, metadata: Mapping[str, Any]) -> None:
        """Takes over what the metadata of a checkpoint holds besides options, before :meth:`build`."""

    @abstractmethod
    def make_model(self, tokenizer: PieceTokenizer, num_ontology_tokens: int) -> PointerNetwork:
        """The model for these pieces and this number of ontology tokens."""

    @abstractmethod
    def parser(self) -> Parser:
        """The parser that users call, over the current parameters."""

    @abstractmethod
    def target_log_probs(self, batch: Batch) -> TargetLogProbs:
        """The model's log-probabilities of the targets of a batch, scored as in training."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars to log; ``loss`` is the one to minimise."""

    def configure_model(self) -> None:
        """Builds the model once the data module knows the vocabulary and the ontology, unless that was done before.

        Raises:
            UsageError: a row is too long for the model.
        """
        datamodule = self._datamodule()
        assert datamodule.assets is not None and datamodule.train_corpus is not None
        longest = int(datamodule.train_corpus.target_lengths.max())
        if longest > self.config.max_length:
            raise UsageError(
                "E428",
                f"the longest training frame has {longest} tokens, the model is for {self.config.max_length}.",
                remedy=f"Set model.max_length to {longest}.",
            )
        new = self.model is None
        if new:
            self.build(datamodule.assets)
        datamodule.check_lengths(self.longest_utterance)
        if new and datamodule.hparams["init_from"]:
            self._init_from(datamodule.hparams["init_from"])
        if self.metric is None:
            self.metric = FrameExactMatch(datamodule.domains)

    @property
    def longest_utterance(self) -> int:
        """Pieces of the longest utterance that the model can read."""
        return self.built.tokenizer.longest

    def _init_from(self, path: str) -> None:
        """Starts from the parameters of a checkpoint of the same sizes."""
        checkpoint = read_checkpoint(path)
        old = Ontology.from_dict(checkpoint["framefill"]["assets"]["ontology"], path).tokens
        try:
            self.net.load_extending_ontology(parameters_of(checkpoint), old, self.built.ontology.tokens)
        except (KeyError, RuntimeError) as error:
            raise BundleError(
                "E308",
                f"the checkpoint's parameters do not fit this model ({str(error).splitlines()[0]}).",
                where=path,
                remedy="Give model the sizes that data.init_from was trained with.",
            ) from error

    def build(self, assets: Assets) -> None:
        """Builds the model for these pieces and labels.

        Raises:
            UsageError: the data is in a form that this kind of parser does not write.
        """
        if assets.form not in self.forms:
            forms = " or ".join(self.forms)
            raise UsageError(
                "E488",
                f"a {self.kind} parser does not write frames in the {assets.form} form.",
                remedy=f"Set data.form to {forms}.",
            )
        self.assets = assets
        self.model = self.make_model(assets.tokenizer, TargetIds(assets.ontology).size)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        with training_attention(self.device, str(self.trainer.precision)):
            losses = self.losses(batch)
        if not self.trainer.loggers and self.trainer.progress_bar_callback is None:
            return losses["loss"]
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, prog_bar=False)
        self.log("loss", losses["loss"], prog_bar=True, logger=False)
        return losses["loss"]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Goes backward; checkpointed layers are computed again here, by the attention of the forward pass."""
        with training_attention(self.device, str(self.trainer.precision)):
            super().backward(loss, *args, **kwargs)

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
        # A fused optimizer undoes a gradient scaler's factor in its step, that is after gradients are clipped.
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None  # type: ignore[attr-defined]
        optimizer = torch.optim.AdamW(groups, fused=not scaled)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmed_cosine(self._progress(step), o.lr_warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _progress(self, step: int) -> float:
        """Share of the training that is done after a step."""
        # The number of steps is asked for only in training: before, the loaders are not there yet.
        if not step:
            return 0.0
        # With trainer.max_time the training may end before its last step; the rate falls in time for that.
        by_time = 0.0
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None:
                done = callback.time_elapsed()
                by_time = done / (done + max(left, 1e-6))
        return max(by_time, step / self.trainer.estimated_stepping_batches)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips norm or values; Lightning's own refuses fused optimizers, for the sake of gradient scalers."""
        if gradient_clip_val and gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        elif gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a parser needs besides parameters, and what the training is of."""
        checkpoint["framefill"] = self.metadata()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Names the parameters as now, and refuses to go on with a training of other rows, labels, pieces or options.

        Raises:
            UsageError: see :func:`lightning_modules.resume.check_same_training`.
        """
        check_same_training(checkpoint["framefill"], self.metadata(), type(self))
        checkpoint["state_dict"] = under_present_names(checkpoint["state_dict"])

    def metadata(self) -> dict[str, Any]:
        """What checkpoints hold besides parameters: kind, assets, and the options of model, decoding, optimization, data."""
        return {
            "kind": self.kind,
            "assets": self.built.to_dict(),
            "model": asdict(self.config),
            "decoding": asdict(self.decoding),
            "optimization": asdict(self.optimization),
            "data": self._datamodule().data_provenance(),
        }

    def _datamodule(self) -> TOPv2DataModule:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, TOPv2DataModule)
        return datamodule


def warmed_cosine(progress: float, warmup: float) -> float:
    """Factor of the peak learning rate: a linear rise, then half a cosine down to zero.

    Args:
        progress: share of the training that is done.
        warmup: share in which the rate rises.
    """
    if progress < warmup or warmup == 1:
        return min(1.0, progress / warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))
