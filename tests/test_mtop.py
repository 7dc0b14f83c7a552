import json
from pathlib import Path

import pytest

from data.mtop.reader import convert, read_file
from data.topv2.reader import read_split, write_file
from frames.errors import CorpusError, FrameError
from scripts.cli import main
from tests.conftest import TINY_RAF
from tests.encoders import save_encoder
from tests.training import fit

TEMPLATES = {
    "en": (
        ("alarm", "Wake me at {}, please", "[IN:CREATE_ALARM [SL:DATE_TIME at {} ] ]"),
        ("timer", "Count down from {} minutes", "[IN:CREATE_TIMER [SL:DATE_TIME {} minutes ] ]"),
        ("timer", "Stop it", "[IN:DELETE_TIMER ]"),
    ),
    "de": (
        ("alarm", "Weck mich um {}, bitte", "[IN:CREATE_ALARM [SL:DATE_TIME um {} ] ]"),
        ("timer", "Zähle {} Minuten herunter", "[IN:CREATE_TIMER [SL:DATE_TIME {} Minuten ] ]"),
        ("timer", "Halt an", "[IN:DELETE_TIMER ]"),
    ),
}


def row(utterance: str, frame: str, domain: str = "alarm", locale: str = "en") -> str:
    tokens = {"tokens": utterance.replace(",", " ,").split(), "tokenType": []}
    return "\t".join(["1", "IN:X", "", utterance, domain, locale, frame, json.dumps(tokens, ensure_ascii=False)])


@pytest.fixture(scope="module")
def mtop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in two languages, in the official layout."""
    root = tmp_path_factory.mktemp("mtop")
    for locale, templates in TEMPLATES.items():
        (root / locale).mkdir()
        for split, numbers in (("train", range(80)), ("eval", range(80, 90)), ("test", range(90, 95))):
            rows = [row(u.format(n), f.format(n), d, locale) for n in numbers for d, u, f in templates]
            (root / locale / f"{split}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def test_leaves_are_found_in_the_raw_utterance(tmp_path: Path):
    path = tmp_path / "train.txt"
    frame = (
        "[IN:CREATE_REMINDER [SL:PERSON_REMINDED me ] "
        "[SL:TODO [IN:CREATE_CALL [SL:CONTACT me Mum ] ] ] [SL:DATE_TIME at 6 ] ]"
    )
    utterance = "Remind me: call me Mum at 6, at 6"
    tokens = ["Remind", "me", ":", "call", "me", "Mum", "at", "6", ",", "at", "6"]
    columns = row(utterance, frame).split("\t")
    path.write_text("\t".join([*columns[:7], json.dumps({"tokens": tokens})]))
    (example,) = read_file(path)
    assert example.domain == "alarm"
    assert str(example.frame.decoupled()) == frame
    assert str(example.frame) == (
        "[IN:CREATE_REMINDER Remind [SL:PERSON_REMINDED me ] : call "
        "[SL:TODO [IN:CREATE_CALL [SL:CONTACT me Mum ] ] ] [SL:DATE_TIME at 6 ] , at 6 ]"
    )
    write_file(tmp_path / "alarm_train.tsv", [example])
    assert read_split(tmp_path, "train") == [example]


def test_text_between_the_intents_of_a_slot_is_no_value(tmp_path: Path):
    frame = "[IN:A [SL:B [IN:C [SL:D wake ] ] [IN:E [SL:F him ] ] ] ]"
    (tmp_path / "train.txt").write_text(row("do wake me and him now", frame))
    (example,) = read_file(tmp_path / "train.txt")
    assert str(example.frame.decoupled()) == frame
    assert str(example.frame) == "[IN:A do [SL:B [IN:C [SL:D wake ] ] [IN:E me and [SL:F him ] ] ] now ]"


@pytest.mark.parametrize(
    ("content", "error", "code"),
    [
        ("1\tIN:X\n", CorpusError, "E242"),
        (row("wake me", "[IN:A ]").replace("tokens", "words"), CorpusError, "E243"),
        (row("wake me", "[IN:A ]").replace('"me"', '"you"'), CorpusError, "E243"),
        (row("wake me", "[IN:A [SL:B you ] ]"), FrameError, "E113"),
        (row("wake me", "[IN:A [SL:B me ] [SL:C wake ] ]"), FrameError, "E113"),
        (row("wake me", "[IN:A [SL:B me ]"), FrameError, "column 7"),
    ],
)
def test_broken_rows_are_told_with_their_line(tmp_path: Path, content: str, error: type[Exception], code: str):
    path = tmp_path / "train.txt"
    path.write_text(row("wake me", "[IN:A ]") + "\n" + content)
    with pytest.raises(error, match=r"train\.txt:2") as caught:
        read_file(path)
    assert code in str(caught.value)


def test_a_language_that_is_not_there(mtop: Path, tmp_path: Path):
    with pytest.raises(CorpusError, match=r"E241.*de, en"):
        convert(mtop, "fr", tmp_path / "fr")


def test_trained_in_one_language_and_evaluated_in_another(mtop: Path, tmp_path: Path, repository: Path):
    for locale in TEMPLATES:
        words = ["data", "mtop", "--root", str(mtop), "--locale", locale, "--out", str(tmp_path / locale)]
        assert main(words) == 0
    english, german = (read_split(tmp_path / locale, "train") for locale in ("en", "de"))
    assert len(english) == len(german) == 240
    texts = [example.utterance for example in english + german]
    encoder = save_encoder(tmp_path / "encoder", "xlm-r", [*texts, "[ intent | slot ]"])
    fit(
        tmp_path, tmp_path / "en", repository, "--config", str(repository / "configs" / "multilingual.yaml"),
        *TINY_RAF, f"--model.init_args.model.encoder={encoder}", f"--data.pretrained={encoder}",
        "--data.batch_size=24", "--trainer.max_epochs=12", "--trainer.check_val_every_n_epoch=6",
        "--model.init_args.optimization.bank_refresh_steps=10", "--model.init_args.optimization.lr=3e-3", "--model.init_args.model.filling=table",
        config=repository / "configs" / "raf_roberta.yaml",
    )  # fmt: skip
    found = {}
    for locale in TEMPLATES:
        record = tmp_path / f"{locale}.json"
        words = ["evaluate", "--checkpoint", str(tmp_path / "runs" / "raf_xlmr" / "best.ckpt")]
        assert main([*words, "--data-root", str(tmp_path / locale), "--json", str(record)]) == 0
        found[locale] = json.loads(record.read_text())
    assert found["en"]["count"] == found["de"]["count"] == 30
    assert found["en"]["exact_match"] > 60
    assert found["de"]["well_formed"] == 100
