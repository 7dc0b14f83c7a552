"""The example in JavaScript gives the runtime's frames. Needs node, and `npm install` in its folder."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from assistants import runtime
from data.topv2.reader import read_split

ODD = [
    "😀",
    "ذكرني غدا في السادسة",
    "]",
    "x",
    "don’t play ﬁne Straße ΣΑΣ İstanbul",
    "wake me at ½ past ٣",
    "[IN:X me ] \\] ▁y",
]


@pytest.fixture(scope="module")
def example(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example, with its dependencies: its own, or those that NODE_PATH names."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    folder = repository / "examples" / "node"
    if (folder / "node_modules").is_dir():
        return folder
    modules = Path(os.environ.get("NODE_PATH", "none"))
    if not (modules / "onnxruntime-node").is_dir():
        pytest.skip("onnxruntime-node is not installed: run npm install in examples/node")
    copy = tmp_path_factory.mktemp("node") / "node"
    shutil.copytree(folder, copy)
    (copy / "node_modules").symlink_to(modules)
    return copy


def test_the_example_gives_the_runtimes_frames(example: Path, corpus: Path, repository: Path):
    bundle = repository / "models" / "conv-nar-topv2"
    utterances = [*dict.fromkeys(row.utterance for row in read_split(corpus, "eval"))][:93] + ODD
    assert len(utterances) == 100
    command = ["node", "parse.mjs", str(bundle)]
    given = "".join(f"{text}\n" for text in [*utterances, ""])
    done = subprocess.run(command, cwd=example, input=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *answers, refused = map(json.loads, done.stdout.splitlines())
    assert refused == {"text": "", "error": "the utterance holds no word"}
    parser = runtime.load(bundle)
    for utterance, answer in zip(utterances, answers, strict=True):
        best = parser.parse([utterance])[0][0]
        assert best.frame is not None
        assert answer == {
            "text": utterance,
            "frame": str(best.frame),
            "tree": best.frame.to_dict()["frame"],
            "score": pytest.approx(best.score, abs=1e-3),
        }


def test_the_example_reads_options_that_bundles_have(repository: Path):
    """Runs without node too: an option that is gone would be undefined there, and every score no number."""
    source = (repository / "examples" / "node" / "parser.mjs").read_text()
    manifest = json.loads((repository / "models" / "conv-nar-topv2" / "manifest.json").read_text())
    read = set(re.findall(r"config\.(\w+)", source))
    assert read and read <= manifest["decoding"].keys()


def test_other_bundles_are_refused(example: Path, repository: Path):
    command = ["node", "parse.mjs", str(repository / "models" / "raf-topv2")]
    done = subprocess.run(command, cwd=example, input="", capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "needs the Python runtime" in done.stderr


def test_a_bundle_of_other_graphs_is_refused(example: Path, repository: Path, tmp_path: Path):
    packed = Path(shutil.copytree(repository / "models" / "conv-nar-topv2", tmp_path / "packed"))
    manifest = json.loads((packed / "manifest.json").read_text())
    manifest["files"] = {
        name.replace(".int8.onnx", ".int4.onnx.gz"): digest for name, digest in manifest["files"].items()
    }
    (packed / "manifest.json").write_text(json.dumps(manifest))
    command = ["node", "parse.mjs", str(packed)]
    done = subprocess.run(command, cwd=example, input="", capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "--precision int8" in done.stderr
