"""Calibration of RAF's weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from data.topv2.reader import read_split
from frames.errors import UsageError
from lightning_modules.calibration import calibrate_checkpoint
from lightning_modules.checkpoints import load_module
from lightning_modules.saved import read_checkpoint
from lightning_modules.weights import pack
from parsers.raf.calibration import calibrate
from parsers.raf.candidate import Candidate, CandidateScores, RAFDecodingConfig, weigh
from retrieval.scenario import Scenario
from scripts.cli import main


def test_calibrate_finds_weights_that_leave_the_bank_when_right():
    scenario = Scenario(("IN:A", "]"))

    def row(retrieval: float, inside: float, outside: float) -> list[Candidate]:
        banked = Candidate(["IN:A", "]"], "bank", scenario, retrieval, 0.0, inside)
        return [banked, Candidate(["IN:B", "]"], "composed", scenario, decoder_score=outside)]

    rows = [row(-0.1, -1.0, -0.9), row(-9.0, -9.0, -0.1)] * 5
    exact = [[True, False], [False, True]] * 5
    config, share = calibrate(rows, exact, RAFDecodingConfig())
    assert share == 1.0
    chosen = weigh(CandidateScores.from_candidates(rows), config).argmax(axis=1)
    assert all(right[i] for right, i in zip(exact, chosen, strict=True))
    with pytest.raises(ValueError, match="no rows"):
        calibrate([], [], RAFDecodingConfig())


def test_calibrate_command_writes_weights_into_the_checkpoint(
    raf_checkpoint: Path, corpus: Path, tmp_path: Path, capsys
):
    copy, record = tmp_path / "copy.ckpt", tmp_path / "calibration.json"
    shutil.copy(raf_checkpoint, copy)
    words = ["calibrate", "--checkpoint", str(copy), "--data-root", str(corpus), "--json", str(record)]
    assert main([*words, "--domains", "alarm"]) == 0
    alone = json.loads(record.read_text())
    assert sum(alone["rows"].values()) == len(read_split(corpus, "eval", ["alarm"])) and alone["domains"] == ["alarm"]
    assert main([*words, "--decoding", "num_retrieved=5"]) == 0
    figures = json.loads(record.read_text())
    assert figures["decoding"]["num_retrieved"] == 5
    assert figures["rows"] == {"fitted": 60, "reported": 60}
    assert set(figures["after"]) == {"exact_match", "in_bank", "out_of_bank", "best_of_candidates"}
    module, _ = load_module(copy)
    assert module.decoding == RAFDecodingConfig(**figures["decoding"])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["calibration.json", "copy.ckpt"]


def test_calibrate_checkpoint_writes_into_packed_weights(raf_checkpoint: Path, corpus: Path, tmp_path: Path):
    copy, packed = tmp_path / "copy.ckpt", tmp_path / "packed.safetensors"
    shutil.copy(raf_checkpoint, copy)
    pack(copy, packed)
    before = read_checkpoint(packed)
    examples = read_split(corpus, "eval")
    figures = [calibrate_checkpoint(path, examples, {"compose_weight": 0.25}) for path in (copy, packed)]
    assert figures[0]["rows"] == figures[1]["rows"]
    after = read_checkpoint(packed)
    assert after["framefill"] == {**before["framefill"], "decoding": figures[1]["decoding"]}
    assert after["framefill"] != before["framefill"]
    assert all(torch.equal(value, after["state_dict"][name]) for name, value in before["state_dict"].items())
    assert load_module(packed)[0].decoding == RAFDecodingConfig(**figures[1]["decoding"])


def test_calibrate_checkpoint_refuses_other_kinds_and_too_few_rows(
    checkpoint: Path, corpus: Path, raf_checkpoint: Path
):
    with pytest.raises(UsageError, match="E443"):
        calibrate_checkpoint(checkpoint, [])
    with pytest.raises(UsageError, match="E444"):
        calibrate_checkpoint(raf_checkpoint, read_split(corpus, "eval")[:1])
