"""Trainings that an experiment consists of: each a ``framefill fit`` in a process of its own, done once.

The record of a training marks it as done, and a training without one continues from its last checkpoint, so a killed
experiment is taken up where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frames.errors import BundleError, FramefillError, UsageError, located
from frames.files import parse_json, sha256
from frames.folders import run_folder
from frames.yaml_files import parse_yaml

#: Options of ``framefill fit`` that change no training.
NEUTRAL = ("--threads", "--trainer.enable_progress_bar", "--trainer.enable_model_summary")


@dataclass(frozen=True)
class Training:
    """A training of an experiment.

    Attributes:
        run: its name.
        words: for ``framefill fit``, without those that the user adds to every training.
        digest: of all that makes it, see :func:`digest_of`.
    """

    run: str
    words: list[str]
    digest: str


def name_of(config: Path) -> str:
    """The run that a config names.

    Raises:
        UsageError: the config cannot be read or names no run.
    """
    try:
        run = parse_yaml(config.read_text(encoding="utf-8"))["run"]
        if not isinstance(run, str):
            raise TypeError(f"run is {run!r}")
        with located(str(config)):
            run_folder(Path("runs"), run)
        return run
    except FramefillError:
        raise
    except (OSError, TypeError, KeyError, ValueError) as error:
        raise UsageError(
            "E404", f"not a config with a run's name ({error!r}).", where=str(config), remedy="See configs/."
        ) from error


def digest_of(configs: Sequence[Path], words: Sequence[str], made_from: Sequence[str]) -> str:
    """SHA-256 of all that makes a training; a file that options name counts by its content.

    Args:
        configs: laid one over the other.
        words: for ``framefill fit`` beside them; :data:`NEUTRAL` ones do not count.
        made_from: checksums of the rows, and the digest of a training that it goes on from.
    """
    laid = [parse_yaml(path.read_text(encoding="utf-8")) for path in configs]
    options = [[_content(value) for value in option] for option in _options(words)]
    teachers = [_content(teacher) for config in laid if (teacher := _teacher(config)) and Path(teacher).is_file()]
    made_by = json.dumps([laid, options, *made_from, *teachers], sort_keys=True, default=str)
    return hashlib.sha256(made_by.encode()).hexdigest()


def _content(value: str) -> str:
    """SHA-256 of the file of this name; the value itself where there is none."""
    try:
        return sha256(value)
    except (OSError, ValueError):  # no file, or a value that cannot be the name of one
        return value


def _teacher(config: Any) -> str | None:
    """The checkpoint that a config distils from."""
    for name in ("model", "init_args", "optimization", "teacher"):
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, str) else None


def _options(words: Sequence[str]) -> list[list[str]]:
    """Options that change a training, each with its values; ``--a=1`` is ``--a 1``."""
    options: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            options.append(word.split("=", 1))
        elif options:
            options[-1].append(word)
        else:
            options.append([word])
    return [option for option in options if option[0] not in NEUTRAL]


def is_made_by(training: Training, before: Mapping[str, Any], configs: Mapping[str, Any], extra: Sequence[str]) -> bool:
    """Whether the training that an experiment's record knows by this name is the one that is wanted.

    Records of earlier versions have no digests. Theirs is, if the command has the configs that the record names, and no words
    after ``--fit`` that change a training.

    Args:
        training: that is wanted.
        before: the experiment's record, with digests by runs as ``made_by``; empty if there is none.
        configs: what the record says of the configs.
        extra: words after ``--fit``.
    """
    digests = before.get("made_by", {})
    if training.run in digests:
        return bool(digests[training.run] == training.digest)
    return not _options(extra) and {**before, **configs} == before


def check_made_by(
    trainings: Sequence[Training], before: Mapping[str, Any], configs: Mapping[str, Any], extra: Sequence[str]
) -> None:
    """Checks trainings that are there, done or begun; arguments as for :func:`is_made_by`.

    Raises:
        UsageError: one is not the one that is wanted.
    """
    for training in trainings:
        runs = Path("runs") / training.run
        if (done(training.run) or any(runs.glob("*.ckpt"))) and not is_made_by(training, before, configs, extra):
            raise UsageError(
                "E494",
                f"the training {runs.name!r} is there, and was made by other configs, rows or words after --fit, or nobody "
                "knows by which.",
                where=f"results/{training.run}",
                remedy=f"Move {_path(training.run).parent.parent} and {runs.parent} away, or give what it was made by.",
            )


def fit(run: str, words: Sequence[str], needed: bool = False) -> Path:
    """The best checkpoint of a training, which is done or continued unless its record is there.

    Args:
        run: its name.
        words: for ``framefill fit``.
        needed: whether the checkpoint must be there as well, for another training to go on from it.

    Raises:
        UsageError: the training failed.
        SystemExit: this process was asked to end, and the training was before it.
    """
    if lacks(run, needed):
        print(f"\n{run}", flush=True)
        _mark(run).parent.mkdir(parents=True, exist_ok=True)
        _mark(run).touch()
        command = [sys.executable, "-m", "scripts.cli", "fit", *words, "--run", run, "--resume", "true"]
        if status := run_to_end(command):
            raise UsageError(
                "E405",
                f"the training {run} ended with status {status}.",
                remedy="Mend what it says above and run the command again; what is done is kept.",
            )
        _mark(run).unlink(missing_ok=True)
    return _best(run)


def fit_noted(
    training: Training, words: Sequence[str], made_by: dict[str, str], write: Callable[[], None], needed: bool = False
) -> Path:
    """As :func:`fit`; what is trained is noted first, so that a training that is killed is not taken up by other words.

    Args:
        training: to be made.
        words: for ``framefill fit`` beside its own.
        made_by: digests by runs, which has this one afterwards if it is trained.
        write: writes the experiment's record, with the digests.
        needed: as for :func:`fit`.
    """
    if lacks(training.run, needed):
        made_by[training.run] = training.digest
        write()
    return fit(training.run, [*training.words, *words], needed)


def lacks(run: str, needed: bool = False) -> bool:
    """Whether :func:`fit` trains.

    A training that was done may be repeated for its checkpoint, as in a clone, which has the record alone. The checkpoint is
    there from the first validation on, so that a mark tells whether the training came to its end.
    """
    return not done(run) or (needed and (not _best(run).exists() or _mark(run).exists()))


def run_to_end(command: Sequence[str]) -> int:
    """Runs a command to its end; a SIGTERM ends it first, and then this process.

    Returns:
        Its exit status.

    Raises:
        SystemExit: this process was asked to end.
    """
    asked = False

    def end(*_: object) -> None:
        nonlocal asked
        asked = True
        child.terminate()

    child = subprocess.Popen(command)
    before = signal.signal(signal.SIGTERM, end)
    try:
        status = child.wait()
    except BaseException:
        # After Ctrl-C, the training is given the time to write its checkpoint.
        child.terminate()
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if asked:
        sys.exit(128 + signal.SIGTERM)  # the shell's convention
    return status


def done(run: str) -> bool:
    """Whether a training has its record."""
    return _path(run).exists()


def record(run: str) -> dict[str, Any]:
    """The record of a training that is done.

    Raises:
        BundleError: it is damaged.
    """
    try:
        found = parse_json(_path(run).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or "exact_match" not in found:
            raise ValueError("it has no exact_match")
    except (OSError, ValueError) as error:
        raise BundleError(
            "E585",
            f"cannot be read as the record of a training ({error}).",
            where=str(_path(run)),
            remedy="Move it away and train again.",
        ) from error
    return found


def _best(run: str) -> Path:
    return Path("runs") / run / "best.ckpt"


def _mark(run: str) -> Path:
    """A file that is there while a training is under way."""
    return Path("runs") / run / "under_way"


def _path(run: str) -> Path:
    return Path("results") / run / "metrics.json"
