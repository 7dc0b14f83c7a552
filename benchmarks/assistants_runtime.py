"""Seconds until a bundle answers, its resident memory, and the sizes of its wheel and of what that installs.

    python -m benchmarks.assistants_runtime --data-root $TOPV2_DIR

Each bundle is opened in new processes, one after another; the least of several runs is reported, for other work on the
machine only adds. Processor time is reported as well, which depends less on such work. Memory is measured after loading
and after parsing utterances of eval.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from assistants.wheel import wheel
from data.topv2.reader import data_root, read_split
from frames.files import write_json
from lightning_modules.evaluation import environment

#: What a new process does: a line of JSON on standard output.
CHILD = """
import json, sys, time
wall, processor = time.perf_counter(), time.process_time()
from assistants import runtime
imported = time.perf_counter()
parser = runtime.load(sys.argv[1])
loaded, worked = time.perf_counter(), time.process_time()
parser.warm_up()
warm = time.perf_counter()
parser.warm_up()
again = time.perf_counter()
import psutil
after_load = psutil.Process().memory_info().rss
texts = json.load(sys.stdin)
for begin in range(0, len(texts), 64):
    parser.parse(texts[begin : begin + 64])
after_parsing = psutil.Process().memory_info().rss
print(json.dumps({
    "import_ms": 1000 * (imported - wall), "load_ms": 1000 * (loaded - imported),
    "import_and_load_ms": 1000 * (loaded - wall), "import_and_load_processor_ms": 1000 * (worked - processor),
    "first_parse_ms": 1000 * (warm - loaded), "second_parse_ms": 1000 * (again - warm),
    "resident_mb_loaded": after_load / 1e6, "resident_mb_after_parsing": after_parsing / 1e6,
}))
"""
#: What is asked for.
TARGETS = {"import_and_load_ms": 500, "resident_mb_after_parsing": 250}


def main() -> None:
    """Measures, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--bundles",
        type=Path,
        nargs="+",
        default=sorted(path.parent for path in Path("models").glob("*/manifest.json")),
    )
    options.add_argument("--data-root")
    options.add_argument("--utterances", type=int, default=640, help="parsed before memory is measured")
    options.add_argument("--runs", type=int, default=7, help="processes a bundle")
    options.add_argument("--out", type=Path, default=Path("results/assistants/runtime.json"))
    given = options.parse_args()
    examples = read_split(data_root(given.data_root), "eval")
    texts = [example.utterance for example in examples[:: max(1, len(examples) // given.utterances)]]
    load_before = os.getloadavg()[0]
    found = {bundle.name: measured(bundle, texts, given.runs) for bundle in given.bundles}
    for name, figures in found.items():
        print(name, {key: round(value, 1) for key, value in figures.items()})
    write_json(
        given.out,
        {
            "targets": TARGETS,
            "bundles": found,
            "runs": given.runs,
            "utterances": len(texts),
            "load_average": [load_before, os.getloadavg()[0]],
            "environment": environment(),
        },
    )


def measured(bundle: Path, texts: list[str], runs: int) -> dict[str, Any]:
    """The least of each figure over some new processes, and the size of the bundle's wheel."""
    command = [sys.executable, "-c", CHILD, str(bundle)]
    outputs = [
        subprocess.run(command, input=json.dumps(texts if run == 0 else []), capture_output=True, text=True, check=True)
        for run in range(runs)
    ]
    rows = [json.loads(done.stdout) for done in outputs]
    least = {key: min(row[key] for row in rows) for key in rows[0]}
    with tempfile.TemporaryDirectory() as folder:
        size = wheel(bundle, folder, "measured_parser").stat().st_size
    # Only the first process parsed.
    return {**least, "resident_mb_after_parsing": rows[0]["resident_mb_after_parsing"], "wheel_mb": size / 1e6}


if __name__ == "__main__":
    main()
