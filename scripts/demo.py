"""`make demo`: train, evaluate, export and parse on the embedded corpus, and say what to type for real TOPv2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.cli import main

CORPUS, RUN, BUNDLE = Path("corpora/synthetic"), "demo", Path("runs/demo/bundle")
UTTERANCES = (
    "remind me to call mum at 6",
    "play golden hour by nina rivers",
    "how long is the drive to the airport from my office?",
)


def demo() -> int:
    """Runs the whole way on the embedded corpus; under six minutes on two cores."""
    if not (CORPUS / "alarm_train.tsv").exists():
        _step("data", "synthetic", "--out", str(CORPUS))
    shutil.rmtree(Path("runs") / RUN, ignore_errors=True)
    _step("fit", "--config", "configs/demo.yaml", "--data.root", str(CORPUS))
    checkpoint, record = f"runs/{RUN}/best.ckpt", f"runs/{RUN}/eval.json"
    _step("export", "--checkpoint", checkpoint, "--out", str(BUNDLE))
    _step("evaluate", "--bundle", str(BUNDLE), "--data-root", str(CORPUS), "--split", "eval", "--json", record)
    metrics = json.loads(Path(record).read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in BUNDLE.iterdir()) / 1e6
    print(
        f"\nexact match on the embedded corpus: {metrics['exact_match']:.2f} (int8 bundle, {metrics['count']} eval utterances)"
    )
    print(f"bundle: {BUNDLE} ({size:.1f} MB)\n")
    status = main(["parse", "--bundle", str(BUNDLE), "--tree", *UTTERANCES])
    print(
        "Next, real TOPv2:\n"
        "  .venv/bin/framefill data download --out topv2 && export TOPV2_DIR=topv2\n"
        "  .venv/bin/framefill fit --config configs/conv_nar.yaml\n"
        "  .venv/bin/framefill evaluate --checkpoint runs/conv_nar/best.ckpt --split eval"
    )
    return status


def _step(*words: str) -> None:
    """Runs a framefill command in a process of its own, as a user would; stops the demo if it fails."""
    print(f"\n$ framefill {' '.join(words)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "scripts.cli", *words]).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    sys.exit(demo())
