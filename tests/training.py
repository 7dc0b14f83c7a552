"""Starting trainings as users do, in a process of their own."""

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.conftest import TINY

# A fork of a process that has imported Lightning and transformers starts at once; a new process imports for seconds.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["lightning_modules.cli", "lightning_modules.raf", "tests.training"])


def _words(corpus: Path, repository: Path, *arguments: str, config: Path | None = None) -> list[str]:
    chosen = ["--config", str(config or repository / "configs" / "demo.yaml"), *([] if config else TINY)]
    # Most processors that run tests multiply matrices in bf16 many times slower than in fp32.
    common = ("--threads=1", "--trainer.precision=32-true")
    return ["fit", *chosen, "--data.root", str(corpus), *common, *arguments]


def command(corpus: Path, repository: Path, *arguments: str, config: Path | None = None) -> list[str]:
    """Words that train; without a config, the tiny convolutional parser."""
    return [sys.executable, "-m", "scripts.cli", *_words(corpus, repository, *arguments, config=config)]


def environment(repository: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(repository)}


def fit(folder: Path, corpus: Path, repository: Path, *arguments: str, config: Path | None = None) -> str:
    """Trains in ``folder`` by the command's own function, in a fork; gives back what was printed."""
    words = _words(corpus, repository, *arguments, config=config)
    log = folder / "output.log"
    assert _run(folder, log, words) == 0, log.read_text()[-6000:]
    return log.read_text()


def in_a_fork(command: list[str]) -> int | None:
    """Stands in for :func:`scripts.trainings.run_to_end` of a ``python -m scripts.cli`` in the current folder."""
    folder = Path.cwd()
    return _run(folder, folder / "output.log", command[command.index("scripts.cli") + 1 :])


def begin(folder: Path, corpus: Path, repository: Path, *arguments: str) -> BaseProcess:
    """Begins what :func:`fit` does, and gives the process."""
    return _start(folder, folder / "output.log", _words(corpus, repository, *arguments))


def _start(folder: Path, log: Path, words: list[str]) -> BaseProcess:
    process = _SERVER.Process(target=_main, args=(folder, log, words))
    process.start()
    return process


def _run(folder: Path, log: Path, words: list[str]) -> int | None:
    process = _start(folder, log, words)
    process.join(timeout=300)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def _main(folder: Path, log: Path, words: list[str]) -> None:
    from scripts.cli import main

    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.chdir(folder)
    sys.exit(main(words))


def fit_by_command(folder: Path, corpus: Path, repository: Path, *arguments: str, config: Path | None = None) -> str:
    """As :func:`fit`, through ``python -m``: for trainings that start processes of their own."""
    words = command(corpus, repository, *arguments, config=config)
    done = subprocess.run(words, cwd=folder, env=environment(repository), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
