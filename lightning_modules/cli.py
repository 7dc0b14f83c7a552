"""``framefill fit``: LightningCLI with one run name from which all places follow."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace, get_loader, set_loader
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from frames.errors import FramefillError, UsageError
from frames.folders import run_folder
from frames.outputs import check_output
from frames.yaml_files import check_yaml, parse_yaml
from lightning_modules.callbacks import BestCheckpoint, LastCheckpoint, RandomState, StartMessage
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import TOPv2DataModule
from lightning_modules.ending import ended_by_signals
from lightning_modules.evaluation import environment, evaluate, write_record
from lightning_modules.reasons import option_reason
from lightning_modules.saved import read_checkpoint
from parsers.aliases import RENAMED

#: Folder of checkpoints and logs; the record of a finished run goes to ``results/`` instead, which is committed.
RUNS = Path("runs")
#: Options of the trainer that hold for every training unless a config says otherwise. Batches are sharded by
#: :class:`data.training.batches.BatchStream`, not by a sampler.
TRAINER_DEFAULTS = {
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 50,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}
#: Names that options of other commands have here; remedies of errors name the others'.
OPTIONS = {"--data-root": "--data.root", "--domains": "--data.domains"}
#: Beginnings of what Lightning says at every start that helps nobody.
NOISE = ("💡", "Checkpoint directory", "Seed set to", "TPU available")
#: Options that name a config.
CONFIG = ("--config", "-c")
#: Least values of numbers that nothing else checks before they are used; None for any above 0.
MINIMA = {
    "checkpoint_every": 1,
    "threads": 0,
    "seed_everything": 0,
    "data.vocabulary": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.val_check_interval": None,
}
#: How jsonargparse reads values unless it is given another way.
YAML = get_loader("yaml")


class SaveConfig(SaveConfigCallback):
    """Writes the full config beside the run's checkpoints, again at every (resumed) start."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "overwrite": True, "save_to_log_dir": False})

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Nothing yet: the checkpoint to resume from may still refuse these options."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes it."""
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Called once, on the first process."""
        path = Path(trainer.default_root_dir) / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, str(path), skip_none=False, overwrite=True, multifile=False)


class FrameFillCLI(LightningCLI):
    """LightningCLI whose ``--run NAME`` decides where checkpoints, logs and the record go."""

    def __init__(self, **kwargs: Any) -> None:
        self._start = StartMessage()
        try:
            self._run(**kwargs)
        except FramefillError:
            raise
        except (
            ArithmeticError,
            ArgumentError,
            MisconfigurationException,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            # Until the first step, nothing but options decides what the trainer, the model and the pieces are like.
            if self._start.began:
                raise
            raise _option_error(error) from error

    def _run(self, **kwargs: Any) -> None:
        """Everything from the words to the record."""
        super().__init__(
            datamodule_class=TOPv2DataModule,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            subclass_mode_model=True,
            model_class=pl.LightningModule,
            auto_configure_optimizers=False,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={"exit_on_error": False, "fit": {"exit_on_error": False}},
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options that are framefill's own."""
        parser.add_argument(
            "--run",
            default="run",
            type=str,
            help="name of the run: checkpoints and logs in runs/NAME, figures in results/NAME",
        )
        parser.add_argument(
            "--resume", default=False, help="continue from the last checkpoint of the run, if there is one", type=bool
        )
        parser.add_argument(
            "--overwrite", default=False, help="replace the checkpoints of a run of the same name", type=bool
        )
        parser.add_argument(
            "--checkpoint_every",
            default=500,
            help="steps between the checkpoints that a killed run resumes from; at least one is written each epoch",
            type=int,
        )
        parser.add_argument("--threads", default=0, help="threads for the arithmetic, 0 for one a core", type=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line and the config files.

        Raises:
            UsageError: an option is unknown or cannot have its value, or a config cannot be read.
            BundleError: the checkpoint that is named cannot be read.
        """
        # jsonargparse writes an option of a class in a class (--model.optimization.last_weight null) as Python's text
        # before it reads it again, where null has become None, which YAML would take for a word.
        set_loader("yaml", _load)
        try:
            super().parse_arguments(parser, args)
        except (ArgumentError, OSError, TypeError, ValueError, yaml.YAMLError) as error:
            raise _option_error(error, where=_unreadable(sys.argv[2:])) from error
        chosen = self.config[self.config.subcommand]
        if chosen.ckpt_path:
            read_checkpoint(chosen.ckpt_path)
        for name, least in MINIMA.items():
            value = chosen.get(name)
            if isinstance(value, int | float) and (value <= 0 if least is None else value < least):
                wanted = "above 0" if least is None else f"at least {least}"
                raise UsageError(
                    "E463", f"--{name} {value} must be {wanted}.", remedy="Leave it out for what is usual."
                )

    @property
    def chosen(self) -> Namespace:
        """The configuration of the subcommand."""
        return self.config[self.subcommand] if self.subcommand else self.config

    @property
    def folder(self) -> Path:
        """Where checkpoints and logs of the run go."""
        return RUNS / self.chosen.run

    def before_instantiate_classes(self) -> None:
        """Derives places, checkpoints and logs from the run's name before the trainer is built.

        Raises:
            UsageError: the run's name leads out of ``runs/``, or a run of that name or another program's file is there.
            BundleError: the checkpoint to resume from is damaged.
        """
        config, folder = self.chosen, run_folder(RUNS, self.chosen.run)
        if config.threads:
            torch.set_num_threads(config.threads)
        config.trainer.default_root_dir = str(folder)
        there = [path for path in (folder / "best.ckpt", folder / "last.ckpt") if path.exists()]
        tried = bool(config.trainer.fast_dev_run)
        if not tried and not _among(config.ckpt_path, there):
            resumed = _resumed_from(folder, there, config.resume, config.overwrite)
            config.ckpt_path = config.ckpt_path or resumed
            check_output(_record(config.run), config.overwrite)
        tell_of_unvalidated_end(config.trainer)
        best = BestCheckpoint(folder)
        stale = [] if tried or _among(config.ckpt_path, there) else there
        last = LastCheckpoint(folder, config.checkpoint_every, stale)
        self.trainer_defaults = {"callbacks": [self._start, RandomState(), best, last]}

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
        if not best.exists():
            # The run was too short for a validation, so its last parameters are reported.
            trainer.save_checkpoint(best)
        if not trainer.is_global_zero:
            return
        module, metadata = load_module(best, device=trainer.strategy.root_device)
        parser = module.parser()
        metrics = evaluate(parser, datamodule.reported_examples(), parser.ontology.valid, datamodule.trained_on)
        record = _record(config.run)
        write_record(
            record,
            metrics,
            {
                **metadata,
                "run": config.run,
                "seed": config.seed_everything,
                "trainer": {key: config.trainer[key] for key in ("max_epochs", "precision", "gradient_clip_val")},
            },
            self.environment,
        )
        print(f"exact match on eval: {metrics['exact_match']:.2f} of {metrics['count']} utterances")
        print(f"checkpoint: {best}\nrecord: {record}")


def tell_of_unvalidated_end(trainer: Namespace) -> None:
    """Says on stderr which epoch's parser will be kept where the last one is not validated."""
    epochs, every = trainer.max_epochs, trainer.check_val_every_n_epoch
    if epochs and every and every < epochs and epochs % every:
        print(
            f"framefill: validation every {every} epochs leaves out the last of {epochs}, so the parser kept is of epoch "
            f"{epochs - epochs % every} or before; --trainer.check_val_every_n_epoch {epochs} keeps the last one",
            file=sys.stderr,
        )


def _record(run: str) -> Path:
    """Where the figures of a run go."""
    return Path("results") / run / "metrics.json"


def _among(named: str | None, there: list[Path]) -> bool:
    """Whether a checkpoint is one of these, however it is spelled."""
    return named is not None and Path(named).resolve() in [path.resolve() for path in there]


def _resumed_from(folder: Path, there: list[Path], resume: bool, overwrite: bool) -> str | None:
    """The checkpoint to resume from, None to begin anew.

    Args:
        folder: of the run.
        there: checkpoints in it.
        resume: whether the run is to be continued.
        overwrite: whether what is there may be replaced.
    """
    last = folder / "last.ckpt"
    if resume and last in there:
        read_checkpoint(last)
        return str(last)
    if there and not overwrite:
        known = ", ".join(path.name for path in there)
        resumed = "has no last.ckpt to resume from" if resume else "is there already"
        raise UsageError(
            "E465",
            f"the run {resumed} ({known}).",
            where=str(folder),
            remedy=("Give" if resume else "Continue it with --resume true, give")
            + " another name with --run, or replace it with --overwrite true.",
        )
    if resume:
        print(f"framefill: nothing to resume in {folder}; the training starts from the beginning", file=sys.stderr)
    return None


def _option_error(error: Exception, where: str = "") -> UsageError:
    """What jsonargparse, a configuration class, a model or the trainer says of an option."""
    reason = option_reason(error)
    renamed = next((f"{old} is called {new} now. " for old, new in RENAMED.items() if _names(old, reason)), "")
    return UsageError("E466", f"{reason}.", where=where, remedy=f"{renamed}`framefill fit --help` lists the options.")


def _load(text: str) -> Any:
    """Reads a config, or the value of an option."""
    try:
        check_yaml(text)
    except ValueError as error:
        # By this type, a value that is no YAML is known to be a word.
        raise yaml.YAMLError(str(error)) from error
    return _without_none(YAML(text))


def _unreadable(words: Sequence[str]) -> str:
    """The config among the words of a command line that cannot be read or has no sections, an empty text if none is."""
    for option, word in zip(("", *words), words, strict=False):
        named, given, path = word.partition("=")
        path = path if given and named in CONFIG else word if option in CONFIG else ""
        try:
            if path and not isinstance(parse_yaml(Path(path).read_text(encoding="utf-8")), dict):
                return path
        except (OSError, ValueError):
            return path
    return ""


def _without_none(value: Any) -> Any:
    """A value read from YAML, with Python's word for null understood as well."""
    if isinstance(value, dict):
        return {key: _without_none(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_without_none(held) for held in value]
    return None if value == "None" else value


def _names(option: str, reason: str) -> bool:
    return re.search(rf"[.'\"-]{option}(?![\w.])", reason) is not None


def fit(arguments: list[str]) -> None:
    """Runs ``LightningCLI fit`` with the words that follow ``framefill fit``.

    Raises:
        FramefillError: options, rows or a checkpoint are wrong.
        SystemExit: the process was asked to end (SIGTERM); its status is 143, and ``last.ckpt`` was written.
        KeyboardInterrupt: the user ended it.
    """
    if not arguments:
        raise UsageError(
            "E467",
            "a training needs a config and a corpus.",
            remedy="For example: framefill fit --config configs/conv_nar.yaml --data.root topv2 --run my_parser\n"
            "`framefill data download` or `framefill data synthetic` makes a corpus; `framefill fit --help` lists options.",
        )
    # Tokenization is over in seconds; its threads would compete with the arithmetic and warn at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # LightningCLI reads the words that a shell passed; handing them over any other way makes it warn.
    sys.argv = [sys.argv[0], "fit", *arguments]
    _quiet()
    try:
        with ended_by_signals("continue with --resume true"):
            # What jsonargparse keeps in context variables after an error would change the next parse of this process.
            copy_context().run(FrameFillCLI)
    except FramefillError as error:
        raise error.naming(OPTIONS) from error


def _quiet() -> None:
    """Keeps to themselves what Lightning says at every start."""
    for message in (
        ".*WeightAveraging callback with a model that overrides.*",
        ".*not supported by the model summary.*",
        ".*LeafSpec.*",
        ".*exists and is not empty.*",
        ".*You have overridden `on_before_batch_transfer` in `LightningModule`.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in (
        "pytorch_lightning.utilities.rank_zero",
        "lightning_fabric.utilities.seed",
        "lightning.fabric.utilities.seed",
    ):
        logging.getLogger(name).addFilter(lambda record: not record.getMessage().startswith(NOISE))
