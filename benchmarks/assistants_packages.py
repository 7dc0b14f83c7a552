"""Two ways to a bundle for :mod:`benchmarks.assistants_agreement`: its wheel, and the example in JavaScript.

Node needs `npm install` in `examples/node`, or the variable NODE_PATH.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from assistants.wheel import wheel

#: Parses JSON lists of standard input, one a line; stops where a module of framefill's clone is imported.
_CHILD = """
import json, sys
import measured_parser
parser = measured_parser.load()
for line in sys.stdin:
    for hypotheses in parser.parse(json.loads(line)):
        print(hypotheses[0].frame)
for name in ("frames", "parsers", "assistants", "torch"):
    assert name not in sys.modules, name
"""


def through_wheel(bundle: Path, groups: list[list[str]]) -> Iterator[str | None]:
    """The package that `framefill wheel` makes, unpacked into an empty folder, in a process that sees no clone."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel(bundle, folder, "measured_parser")) as archive:
            archive.extractall(folder)
        command = [sys.executable, "-c", _CHILD]
        yield from _lines(command, [json.dumps(group) for group in groups], Path(folder), PYTHONPATH=folder)


def through_node(bundle: Path, groups: list[list[str]]) -> Iterator[str | None]:
    """The example in JavaScript, which takes one utterance at a time; bundles of the conv NAR kind alone."""
    with tempfile.TemporaryDirectory() as folder:
        example = Path(folder) / "node"
        shutil.copytree("examples/node", example, symlinks=True)
        if not (example / "node_modules").exists():
            (example / "node_modules").symlink_to(os.environ["NODE_PATH"])
        utterances = [utterance for group in groups for utterance in group]
        for line in _lines(["node", "parse.mjs", str(bundle.resolve())], utterances, example):
            yield json.loads(line).get("frame")


def _lines(command: list[str], lines: list[str], folder: Path, **variables: str) -> list[str]:
    given = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, input=given, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()
