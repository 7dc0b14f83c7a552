"""Starting trainings as users do, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import TINY


def command(corpus: Path, repository: Path, *arguments: str) -> list[str]:
    config = repository / "configs" / "conv_nar.yaml"
    return [
        sys.executable, "-m", "scripts.cli", "fit", "--config", str(config),
        "--data.root", str(corpus), "--threads=1", *TINY, *arguments,
    ]  # fmt: skip


def environment(repository: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}


def fit(folder: Path, corpus: Path, repository: Path, *arguments: str) -> str:
    words = command(corpus, repository, *arguments)
    done = subprocess.run(words, cwd=folder, env=environment(repository), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
