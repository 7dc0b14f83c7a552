"""Do a wheel and the example in JavaScript give the runtime's frames? On rows of a split, an utterance at a time.

    python -m benchmarks.assistants_packages --bundle models/conv-nar-topv2 --data-root $TOPV2_DIR --ways wheel node

The wheel is unpacked into an empty folder and runs in a process that sees nothing else of framefill. Node needs `npm install`
in `examples/node`, or the variable NODE_PATH. The record is added to, way by way.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assistants import runtime
from assistants.wheel import wheel
from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import write_json
from lightning_modules.evaluation import environment, spread

#: Parses lines of standard input with an unpacked wheel; stops where a module of framefill's clone is imported.
_CHILD = """
import sys
import measured_parser
parser = measured_parser.load()
for line in sys.stdin:
    print(parser.parse([line.rstrip("\\n")])[0][0].frame)
for name in ("frames", "parsers", "assistants", "torch"):
    assert name not in sys.modules, name
"""


def by_runtime(bundle: Path, utterances: list[str]) -> list[str]:
    """The runtime in this process."""
    parser = runtime.load(bundle)
    return [str(parser.parse([utterance])[0][0].frame) for utterance in utterances]


def by_wheel(bundle: Path, utterances: list[str]) -> list[str]:
    """The package that `framefill wheel` makes of a bundle, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel(bundle, folder, "measured_parser")) as archive:
            archive.extractall(folder)
        return _lines([sys.executable, "-c", _CHILD], utterances, Path(folder), {"PYTHONPATH": folder})


def by_node(bundle: Path, utterances: list[str]) -> list[str]:
    """The example in JavaScript; bundles of the conv NAR kind alone."""
    with tempfile.TemporaryDirectory() as folder:
        example = Path(folder) / "node"
        shutil.copytree("examples/node", example, symlinks=True)
        if not (example / "node_modules").exists():
            (example / "node_modules").symlink_to(os.environ["NODE_PATH"])
        lines = _lines(["node", "parse.mjs", str(bundle.resolve())], utterances, example, {})
    return [json.loads(line)["frame"] for line in lines]


#: Each way that is compared with the runtime.
WAYS: dict[str, Callable[[Path, list[str]], list[str]]] = {"wheel": by_wheel, "node": by_node}


def _lines(command: list[str], utterances: list[str], folder: Path, variables: dict[str, str]) -> list[str]:
    given = "".join(f"{utterance}\n" for utterance in utterances)
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, input=given, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def main() -> None:
    """Parses in all ways, compares, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundle", type=Path, default=Path("models/conv-nar-topv2"))
    options.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS])
    options.add_argument("--data-root")
    options.add_argument("--split", default="eval")
    options.add_argument("--rows", type=int, help="about so many rows, evenly spread (default: all)")
    options.add_argument("--out", type=Path, default=Path("results/assistants/packages.json"))
    given = options.parse_args()
    root = data_root(given.data_root)
    texts = [example.utterance for example in spread(read_split(root, given.split), given.rows)]
    record: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {"bundles": {}}
    entry = record["bundles"].setdefault(given.bundle.name, {})
    entry["files"] = json.loads((given.bundle / "manifest.json").read_text())["files"]
    expected = by_runtime(given.bundle, texts)
    for way in given.ways:
        found = WAYS[way](given.bundle, texts)
        differing = sum(one != other for one, other in zip(expected, found, strict=True))
        entry[way] = {"utterances": len(texts), "frames_that_differ_from_the_runtime": differing}
        print(given.bundle.name, way, entry[way])
    record |= {"split": given.split, "data_checksum": corpus_checksum(root, given.split), "environment": environment()}
    write_json(given.out, record)


if __name__ == "__main__":
    main()
