"""Callbacks of every training: what it trains on, checkpoints to resume from, and an exact resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from lightning_modules.datamodule import TOPv2DataModule


class StartMessage(Callback):
    """Says what is trained on before the first step.

    Attributes:
        began: whether the training has.
    """

    began = False

    @rank_zero_only
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints rows, domains, labels and rows that contradict each other."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(datamodule, TOPv2DataModule):
            print(datamodule.summary(), flush=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes that all is built."""
        self.began = True


class BestCheckpoint(ModelCheckpoint):
    """Writes ``best.ckpt`` after a validation that no earlier one beats, also where the run's folder was moved meanwhile.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder, filename="best", monitor="val/exact_match", mode="max", save_top_k=1,
            enable_version_counter=False,
        )  # fmt: skip

    @property
    def state_key(self) -> str:
        """That of the parent, which earlier versions used."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the best figure so far; Lightning would forget it where the folder has another path."""

        def here(path: str) -> str:
            return str(Path(self.dirpath or "", Path(path).name)) if path else path

        moved: dict[str, Any] = {
            name: here(state_dict[name])
            for name in ("best_model_path", "kth_best_model_path", "last_model_path")
            if name in state_dict
        }
        best = {here(path): value for path, value in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "dirpath": self.dirpath, "best_k_models": best})


class LastCheckpoint(ModelCheckpoint):
    """Writes ``last.ckpt`` every so many steps, at least once an epoch, and when the process is asked to end (SIGTERM).

    It is also written before each validation, which may take long: a training that ends within one is resumed at its
    beginning. A checkpoint of the step before would be resumed after it, with no figure for that validation.

    A SIGTERM between the batches of one accumulated step (``accumulate_grad_batches``) loses the gradients of those batches: the
    step is then made of the others alone.

    Args:
        folder: of the run.
        every: steps between two checkpoints.
        stale: checkpoints of an earlier run of the same name, deleted when training begins.
    """

    def __init__(self, folder: Path, every: int, stale: Sequence[Path] = ()) -> None:
        super().__init__(
            dirpath=folder, filename="last", every_n_train_steps=every, save_top_k=1, enable_version_counter=False
        )
        self._every, self._stale = every, stale
        self._before_validation = False

    @property
    def state_key(self) -> str:
        """The same whatever the number of steps, which may change when a training is resumed."""
        return type(self).__qualname__

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fits the interval into an epoch, whose length is known by now, and deletes what would be taken for this run's."""
        super().on_train_start(trainer, pl_module)
        epoch = int(trainer.num_training_batches) // trainer.accumulate_grad_batches
        self._every_n_train_steps = max(1, min(self._every, epoch))
        if trainer.is_global_zero:
            for path in self._stale:
                path.unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time, or when Lightning is about to end the training because of a SIGTERM."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.received_sigterm and self._last_global_step_saved != trainer.global_step:
            self._save(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves before averaged parameters take the place of those in training."""
        super().on_validation_start(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._before_validation = True
            try:
                self._save(trainer)
            finally:
                self._before_validation = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Marks the validation as begun; Lightning goes back to the start of one that ended in its first batch."""
        if self._before_validation:
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress.update(total=dict(begun), current=dict(begun), is_last_batch=False)

    def _save(self, trainer: pl.Trainer) -> None:
        assert self.dirpath is not None
        trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")


class RandomState(Callback):
    """Keeps the state of the random generators in checkpoints: a resumed training draws what the unbroken one would."""

    def __init__(self) -> None:
        self._restored: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """States of the generators on the CPU and on the current CUDA device; those that wait to be applied, if any do."""
        if self._restored:
            return dict(self._restored)
        state = {"rng": torch.get_rng_state()}
        return {**state, "cuda_rng": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers the states until training begins."""
        self._restored = {name: value.cpu() for name, value in state_dict.items()}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Applies the states at the first step, after Lightning's own start-up has drawn from the generators."""
        if "rng" in self._restored:
            torch.set_rng_state(self._restored["rng"])
        if "cuda_rng" in self._restored and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(self._restored["cuda_rng"], pl_module.device)
        self._restored = {}
