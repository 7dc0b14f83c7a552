"""Iterative magnitude pruning as a callback: a training under a mask, whose end is the mask of the next round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor

from frames.errors import UsageError
from lightning_modules.lottery.masks import (
    Mask,
    PruningConfig,
    apply_mask,
    dense_mask,
    mask_of,
    pruned,
    weights_of,
)
from lightning_modules.lottery.stages import read_mask, write_mask
from lightning_modules.saved import check_suffix


class MagnitudePruning(Callback):
    """One round of iterative magnitude pruning (Frankle and Carbin 2019), on a parser of any kind.

    The training begins at the given values under the given mask, and its end gives the mask of the next round. Pruned
    weights are exact zeros throughout: they are multiplied by the mask wherever the model reads them.

    Args:
        mask: weights that may be trained, or the file of such a mask (:func:`lightning_modules.lottery.stages.read_mask`);
            None for all.
        values: parameters to begin with; None for those that the model has.
        pruning: how the next mask is made.
        rewind_step: optimizer step whose values are kept, to begin later rounds there; None to keep none.
        next_mask_file: where the next mask is written, for a training by ``framefill fit``, ending in ``.safetensors``; None
            for nowhere.

    Raises:
        UsageError: ``next_mask_file`` has another suffix.
        BundleError: the file of a mask is missing or damaged.

    Attributes:
        next_mask: after the training, the mask of the next round.
        early_values: parameters after ``rewind_step`` steps.
    """

    def __init__(
        self,
        mask: Mask | str | None = None,
        values: Mapping[str, Tensor] | None = None,
        pruning: PruningConfig | None = None,
        rewind_step: int | None = None,
        next_mask_file: str | None = None,
    ) -> None:
        self.mask = read_mask(mask)[0] if isinstance(mask, str) else mask
        self._mask_file = mask if isinstance(mask, str) else ""
        self.values, self.pruning, self.rewind_step = values, pruning, rewind_step
        self.next_mask_file = next_mask_file
        if next_mask_file is not None:
            check_suffix(next_mask_file)
        self.next_mask: Mask | None = None
        self.early_values: dict[str, Tensor] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Builds the model, gives it its values and applies the mask, before anything copies it.

        Raises:
            UsageError: the callback stands after one that averages weights, whose copy would have no mask; or no layer is
                large enough to be pruned.
            BundleError: the mask is of another model.
        """
        if stage != "fit":
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if callback is self:
                break
            if isinstance(callback, WeightAveraging):
                raise UsageError(
                    "E562",
                    f"{type(callback).__name__} stands before MagnitudePruning and would average unmasked weights.",
                    remedy="Name MagnitudePruning first in trainer.callbacks.",
                )
        pl_module.configure_model()
        model: Any = pl_module.model
        if self.values is not None:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(self.values[name])
        if self.mask is not None:
            apply_mask(model, self.mask, self._mask_file)
        elif self.pruning is not None:
            # Made again from the trained weights; what cannot be pruned is told before they are trained.
            dense_mask(weights_of(model), self.pruning.smallest_layer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the values of the step to rewind to."""
        if trainer.global_step == self.rewind_step and self.early_values is None:
            self.early_values = weights_of(pl_module.model)  # type: ignore[arg-type]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes the mask of the next round.

        Raises:
            UsageError: a layer would have no weight left.
        """
        if self.pruning is not None:
            model: Any = pl_module.model
            weights = {name: value.cpu() for name, value in weights_of(model).items()}
            mask = mask_of(model) or dense_mask(weights, self.pruning.smallest_layer)
            self.next_mask = pruned(weights, mask, self.pruning)
            if self.next_mask_file is not None:
                datamodule = trainer.datamodule  # type: ignore[attr-defined]
                parent = None if self.mask is None else self.mask.digest
                made = {"parent": parent, "corpus": datamodule.checksum, "seed": datamodule.seed}
                write_mask(self.next_mask_file, self.next_mask, made)
