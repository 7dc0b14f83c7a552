"""One parser teaches another: variants of training rows, the teacher's frames, and the corpus made of both."""

from pathlib import Path
from typing import Any

import pytest

from assistants.tables import table
from data.topv2.reader import LOW_RESOURCE, read_split, write_file
from data.training.taught import WAYS, taught, variants, write_taught
from data.training.utterances import exchange_words, join_halves
from frames.errors import CorpusError, UsageError
from scripts.cli import build_parser, main

ROW = {
    "domain": "alarm",
    "utterance": "wake me at 6",
    "frame": "[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]",
    "probability": "0.95",
}


def test_a_bundle_teaches_by_the_command_line(corpus: Path, bundle: Path, tmp_path: Path):
    found, frames, out = tmp_path / "variants.csv", tmp_path / "frames.csv", tmp_path / "taught"
    root = ["--data-root", str(corpus)]
    assert main(["data", "variants", *root, "--out", str(found)]) == 0
    assert main(["parse", "--in", str(found), "--out", str(frames), "--bundle", str(bundle), "--processes", "1"]) == 0
    assert main(["data", "taught", *root, "--frames", str(frames), "--least", "0", "--out", str(out)]) == 0
    before, after = read_split(corpus, "train"), read_split(out, "train")
    added = {(row.domain, row.utterance): row.frame for row in after}
    assert len(after) > len(before) and read_split(out, "eval") == read_split(corpus, "eval")
    (parsed,) = table(frames).read(frames, 100_000)
    # Of some frames, a file could not tell which place is meant.
    kept = [row for row in parsed if (row["domain"], row["utterance"]) in added]
    assert len(kept) > 0.9 * len(parsed)
    assert all(str(added[row["domain"], row["utterance"]]) == row["frame"] for row in kept)


def test_variants_are_new_and_come_once(corpus: Path):
    train = read_split(corpus, "train")
    # The help lists them by hand, since it does not wait for what makes them.
    assert build_parser().parse_args(["data", "variants", "--out", "x.csv"]).ways == [*WAYS]
    rows = variants(train, [*WAYS], 2, 0)
    keys = [(row["domain"], row["utterance"]) for row in rows]
    assert len(keys) == len({*keys}) > 0
    assert not {*keys} & {(row.domain, row.utterance) for row in train}
    assert rows == variants(train, [*WAYS], 2, 0) != variants(train, [*WAYS], 2, 1)
    for way in WAYS:
        alone = [(row["domain"], row["utterance"]) for row in variants(train, [way], 2, 0)]
        assert alone and {*alone} < {*keys}


def test_words_are_exchanged_for_those_between_the_same_two():
    made = exchange_words(["wake me at 6", "wake us at 6", "call me now"], 40, 0)
    assert {*made} == {"wake us at 6", "wake me at 6", "call me at 6", "wake me now"}


def test_halves_are_joined_at_two_words_that_both_have():
    made = {*join_halves(["please wake me at 6", "wake me now", "play jazz"], 40, 0)}
    assert made == {"please wake me now", "wake me at 6"}


def test_frames_that_are_not_likely_enough_or_that_a_file_cannot_hold_are_left_out():
    others = [
        {**ROW, "probability": "0.89"},
        {**ROW, "probability": None},
        {**ROW, "probability": "nan"},
        {**ROW, "frame": None},
        # Which of both "at 6" is meant, the text of a decoupled frame does not tell.
        {**ROW, "utterance": "wake me at 6 or at 6 or so", "frame": "[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]"},
    ]
    (example,) = taught([ROW, *others], 0.9)
    assert str(example.frame) == ROW["frame"] and example.utterance == ROW["utterance"]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"domain": "alarm", "utterance": "wake me"}, "E224"),
        ({**ROW, "probability": "high"}, "E225"),
        ({**ROW, "probability": [1]}, "E225"),
        ({**ROW, "frame": 5}, "E229"),
        ({**ROW, "domain": ["alarm"]}, "E229"),
        ({**ROW, "utterance": None}, "E229"),
        ({**ROW, "frame": "[IN:CREATE_ALARM"}, "E1"),
    ],
)
def test_tables_that_are_not_parsed_variants(row: dict[str, Any], code: str):
    with pytest.raises(CorpusError if code != "E1" else Exception, match=code) as caught:
        taught([row], 0.9, "frames.csv")
    assert "frames.csv, row 1" in str(caught.value)


def test_low_resource_splits_keep_their_place(corpus: Path, tmp_path: Path):
    root = tmp_path / "root"
    (root / LOW_RESOURCE).mkdir(parents=True)
    few = read_split(corpus, "train")[:20]
    for split, rows in (("train_25spis", few), ("valid_25spis", few[:5])):
        write_file(root / LOW_RESOURCE / f"{few[0].domain}_{split}.tsv", [r for r in rows if r.domain == few[0].domain])
    write_file(root / f"{few[0].domain}_eval.tsv", few[:3])
    added = taught([{**ROW, "domain": few[0].domain}], 0.9)
    counts = write_taught(root, "train_25spis", added, 0.9, tmp_path / "out")
    assert counts["train_25spis"] == len(read_split(root, "train_25spis")) + 1
    assert read_split(tmp_path / "out", "train_25spis")[-1] == added[0]
    assert read_split(tmp_path / "out", "valid_25spis") == read_split(root, "valid_25spis")
    with pytest.raises(CorpusError, match="E226"):
        write_taught(root, "train_25spis", taught([{**ROW, "domain": "../alarm"}], 0.9), 0.9, tmp_path / "other")
    with pytest.raises(UsageError, match="E468"):
        write_taught(root, "train_25spis", [], 0.9, tmp_path / "other")
    with pytest.raises(UsageError, match="E583.*eval"):
        write_taught(root, "eval", added, 0.9, tmp_path / "other")
    assert not (tmp_path / "other").exists()
