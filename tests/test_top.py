"""TOP, with rows of our own in its layout."""

from pathlib import Path

import pytest

from data.top.reader import convert, read_file
from data.topv2.reader import read_split
from frames.errors import CorpusError, FrameError, UsageError
from lightning_modules.datamodule import TOPv2DataModule
from scripts.cli import main

TEMPLATES = (
    (
        "How long to drive from {} to work?",
        "How long to drive from {} to work ?",
        "[IN:GET_ESTIMATED_DURATION How long to [SL:METHOD_TRAVEL drive ] from [SL:SOURCE {} ] to [SL:DESTINATION "
        "[IN:GET_LOCATION_WORK work ] ] ? ]",
    ),
    (
        "Any concerts in {}, tonight",
        "Any concerts in {} , tonight",
        "[IN:GET_EVENT Any [SL:CATEGORY_EVENT concerts ] in [SL:LOCATION {} ] , [SL:DATE_TIME tonight ] ]",
    ),
    ("Sing me {}", "Sing me {}", "[IN:UNSUPPORTED_NAVIGATION Sing me {} ]"),
)
PLACES = ("Austin", "Lyon", "São Paulo", "New York", "Oslo", "the harbour", "Bonn", "Pune")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    root = tmp_path / "top"
    root.mkdir()
    for split, places in (("train", PLACES), ("eval", PLACES[:2]), ("test", PLACES[:1])):
        rows = ["\t".join(part.format(place) for part in template) for place in places for template in TEMPLATES]
        (root / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def test_converted_rows_are_those_of_the_corpus(top: Path, tmp_path: Path, capsys):
    out = tmp_path / "converted"
    assert main(["data", "top", "--root", str(top), "--out", str(out)]) == 0
    assert "24 train, 6 eval, 3 test rows" in capsys.readouterr().out
    rows = read_split(out, "train")
    assert rows == read_file(top / "train.tsv")
    assert {row.domain for row in rows} == {"top"}
    duration = next(row for row in rows if "São Paulo" in row.utterance and row.utterance.startswith("How"))
    assert duration.utterance.endswith("work?")
    assert str(duration.frame.decoupled()) == (
        "[IN:GET_ESTIMATED_DURATION [SL:METHOD_TRAVEL drive ] [SL:SOURCE São Paulo ] [SL:DESTINATION "
        "[IN:GET_LOCATION_WORK ] ] ]"
    )


def test_unsupported_requests_are_left_out_on_request(top: Path, tmp_path: Path):
    assert convert(top, tmp_path / "out", supported_only=True) == {"train": 16, "eval": 4, "test": 2}
    assert not any("UNSUPPORTED" in str(row.frame) for row in read_split(tmp_path / "out", "train"))


def test_a_row_whose_tokens_have_other_characters_is_read_over_them(tmp_path: Path):
    path = tmp_path / "train.tsv"
    path.write_text("play \"now\"\tplay `` now ''\t[IN:GET_EVENT play [SL:NAME_EVENT `` now '' ] ]\n")
    (row,) = read_file(path)
    assert row.utterance == "play `` now ''"
    assert str(row.frame.decoupled()) == "[IN:GET_EVENT [SL:NAME_EVENT `` now '' ] ]"


@pytest.mark.parametrize(
    ("content", "error", "code"),
    [
        ("domain\tutterance\n", CorpusError, "E244"),
        ("  \tx\t[IN:A x ]\n", CorpusError, "E245"),
        ("go home\tgo home\t[IN:A go away ]\n", FrameError, "E112"),
        ("go home\tgo home\t[IN:A go home\n", FrameError, "column 3"),
    ],
)
def test_broken_rows_are_reported_with_their_line(tmp_path: Path, content: str, error: type[Exception], code: str):
    path = tmp_path / "train.tsv"
    path.write_text("go home\tgo home\t[IN:A go home ]\n" + content)
    with pytest.raises(error, match=r"train\.tsv:2") as caught:
        read_file(path)
    assert code in str(caught.value)


def test_a_missing_split_writes_nothing(top: Path, tmp_path: Path):
    (top / "test.tsv").unlink()
    with pytest.raises(CorpusError, match=r"E205.*test\.tsv|test\.tsv.*"):
        convert(top, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_is_not_replaced(top: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "top_train.tsv").write_text("mine")
    with pytest.raises(UsageError, match="E407"):
        convert(top, tmp_path / "out")
    assert (tmp_path / "out" / "top_train.tsv").read_text() == "mine"


def test_a_training_reads_the_converted_corpus(top: Path, tmp_path: Path):
    convert(top, tmp_path / "out")
    data = TOPv2DataModule(str(tmp_path / "out"), form="index", vocabulary=120, batch_size=4)
    data.setup("fit")
    assert data.assets is not None
    assert {"IN:GET_LOCATION_WORK", "SL:DESTINATION"} <= set(data.assets.ontology.tokens)
    batch = next(iter(data.train_dataloader()))
    assert batch is not None
