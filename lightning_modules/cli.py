"""``framefill fit``: LightningCLI with one run name from which all places follow."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import TOPv2DataModule
from lightning_modules.evaluation import environment, evaluate, write_record

#: Folder of checkpoints and logs; the record of a finished run goes to ``results/`` instead, which is committed.
RUNS = Path("runs")


class SaveConfig(SaveConfigCallback):
    """Writes the full config beside the run's checkpoints, again at every (resumed) start."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "overwrite": True, "save_to_log_dir": False})

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Called once, on the first process."""
        path = Path(trainer.default_root_dir) / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, str(path), skip_none=False, overwrite=True, multifile=False)


class FrameFillCLI(LightningCLI):
    """LightningCLI whose ``--run NAME`` decides where checkpoints, logs and the record go."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            datamodule_class=TOPv2DataModule,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            subclass_mode_model=True,
            model_class=pl.LightningModule,
            auto_configure_optimizers=False,
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options that are framefill's own."""
        parser.add_argument(
            "--run", default="run", help="name of the run: checkpoints and logs in runs/NAME, figures in results/NAME"
        )
        parser.add_argument(
            "--resume", default=False, help="continue from the last checkpoint of the run, if there is one", type=bool
        )
        parser.add_argument(
            "--checkpoint_every",
            default=500,
            help="steps between the checkpoints that a killed run resumes from",
            type=int,
        )
        parser.add_argument("--threads", default=0, help="threads for the arithmetic, 0 for one a core", type=int)

    @property
    def chosen(self) -> Any:
        """The configuration of the subcommand."""
        return self.config[self.subcommand] if self.subcommand else self.config

    @property
    def folder(self) -> Path:
        """Where checkpoints and logs of the run go."""
        return RUNS / self.chosen.run

    def before_instantiate_classes(self) -> None:
        """Derives places, checkpoints and logs from the run's name before the trainer is built."""
        config, folder = self.chosen, self.folder
        if config.threads:
            torch.set_num_threads(config.threads)
        config.trainer.default_root_dir = str(folder)
        if config.resume and not config.ckpt_path and (folder / "last.ckpt").exists():
            config.ckpt_path = str(folder / "last.ckpt")
        shared: dict[str, Any] = {"dirpath": folder, "save_top_k": 1, "enable_version_counter": False}
        best = ModelCheckpoint(filename="best", monitor="val/exact_match", mode="max", **shared)
        last = ModelCheckpoint(filename="last", every_n_train_steps=config.checkpoint_every, **shared)
        self.trainer_defaults = {"callbacks": [best, last]}

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Logs to CSV and TensorBoard unless the config names loggers."""
        if self.chosen.trainer.logger is None:
            folder = str(self.folder)
            kwargs["logger"] = [CSVLogger(folder, "csv"), TensorBoardLogger(folder, "tensorboard")]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Notes commit and hardware, since the files may have changed by the time a long training ends."""
        self.environment = environment()

    def after_fit(self) -> None:
        """Evaluates the best checkpoint on the whole of the split to report on and writes ``results/<run>/metrics.json``."""
        trainer, datamodule = self.trainer, self.datamodule
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        config = self.chosen
        best = self.folder / "best.ckpt"
        if not trainer.checkpoint_callback.best_model_path:  # type: ignore[union-attr]
            # Too short a run for a validation: its last parameters are all there is to judge.
            trainer.save_checkpoint(best)
        if not trainer.is_global_zero:
            return
        module, made = load_module(best, device=trainer.strategy.root_device)
        parser = module.parser()
        metrics = evaluate(parser, datamodule.reported_examples(), parser.ontology.valid, datamodule.trained_on)
        record = Path("results") / config.run / "metrics.json"
        write_record(
            record,
            metrics,
            {
                **made,
                "run": config.run,
                "seed": config.seed_everything,
                "trainer": {key: config.trainer[key] for key in ("max_epochs", "precision", "gradient_clip_val")},
            },
            self.environment,
        )
        print(f"exact match on eval: {metrics['exact_match']:.2f} of {metrics['count']} utterances")
        print(f"checkpoint: {best}\nrecord: {record}")


def fit(arguments: list[str]) -> None:
    """Runs ``LightningCLI fit`` with the words that follow ``framefill fit``."""
    # Tokenization is over in seconds; its threads would compete with the arithmetic and warn at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # LightningCLI reads the words that a shell passed; handing them over any other way makes it warn.
    sys.argv = [sys.argv[0], "fit", *arguments]
    warnings.filterwarnings("ignore", message=".*WeightAveraging callback with a model that overrides.*")
    warnings.filterwarnings("ignore", message=".*not supported by the model summary.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    FrameFillCLI()
