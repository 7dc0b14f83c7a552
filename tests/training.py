"""Starting trainings as users do, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import TINY


def command(corpus: Path, repository: Path, *arguments: str, config: Path | None = None) -> list[str]:
    """Words that train; without a config, the tiny convolutional parser."""
    chosen = ["--config", str(config or repository / "configs" / "demo.yaml"), *([] if config else TINY)]
    return [
        sys.executable, "-m", "scripts.cli", "fit", *chosen,
        "--data.root", str(corpus), "--threads=1", *arguments,
    ]  # fmt: skip


def environment(repository: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def fit(folder: Path, corpus: Path, repository: Path, *arguments: str, config: Path | None = None) -> str:
    words = command(corpus, repository, *arguments, config=config)
    done = subprocess.run(words, cwd=folder, env=environment(repository), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
