"""The exit status of a training that a signal ends, which schedulers and ``&&`` go by."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import environment


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ("structured", ["--domain", "timer", "--kept", "0.5"]),
        ("lottery", ["--sources", "alarm", "--targets", "timer", "--seeds", "0"]),
    ],
)
def test_an_experiment_that_is_ended_tells_so(
    experiment: str,
    words: list[str],
    number: signal.Signals,
    status: int,
    repository: Path,
    corpus: Path,
    tmp_path: Path,
):
    config = repository / "configs" / f"lottery{'_structured' if experiment == 'structured' else ''}_conv_nar.yaml"
    common = ["--config", str(config), "--data-root", str(corpus), "--stages", "stages", "--out", "out"]
    # A shell that starts the tests in the background has its children ignore SIGINT.
    # A training step asks the process to end, so that the signal comes within a training whatever the machine's speed.
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lightning_modules.parser_module import ParserModule\n"
        "from scripts.cli import main\n"
        "step = ParserModule.training_step\n"
        "def ended(self, batch, batch_idx):\n"
        f"    if self.global_step == 3: os.kill(os.getpid(), {int(number)})\n"
        "    return step(self, batch, batch_idx)\n"
        "ParserModule.training_step = ended\n"
        f"sys.exit(main({['bench', experiment, *common, *words]!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(repository), capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr[-3000:]
    assert "are kept for the next call" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists() and not list((tmp_path / "stages").glob(".unfinished*"))
