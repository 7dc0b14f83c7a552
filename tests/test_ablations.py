import json
import shutil
from pathlib import Path

import pytest
import yaml

from frames.errors import UsageError
from frames.files import write_json
from lightning_modules.datamodule import TOPv2DataModule
from scripts.ablations import FIGURES, ablations, plot
from scripts.cli import main
from tests.conftest import TINY
from tests.training import in_a_fork


def test_each_change_is_trained_once_and_compared(corpus: Path, repository: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained: list[str] = []

    def run(command: list[str]) -> int | None:
        trained.append(command[command.index("--run") + 1].rsplit("/")[-1])
        return in_a_fork(command)

    monkeypatch.setattr("scripts.trainings.run_to_end", run)
    trial = {"run": "short", "data": {"fraction": 0.5, "num_augmented": 0}, "trainer": {"max_epochs": 4}}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(trial))
    change = {"run": "x", "model": {"init_args": {"decoding": {"length_beam": 1}}}}
    (tmp_path / "one_length.yaml").write_text(yaml.safe_dump(change))
    demo = (repository / "configs" / "demo.yaml").read_text()
    (tmp_path / "whole.yaml").write_text(demo)
    words = [
        "bench", "ablations", "--config", str(repository / "configs" / "demo.yaml"),
        "--trial", "short.yaml", "--changes", "one_length.yaml", "whole.yaml", "--data-root", str(corpus),
        "--fit", "--threads=1", *(word for word in TINY if "num_augmented" not in word and "check_val" not in word),
        "--trainer.check_val_every_n_epoch=4",
    ]  # fmt: skip
    for _ in range(2):
        assert main(words) == 0, (tmp_path / "output.log").read_text()[-6000:]
        assert trained == ["as_it_is", "one_length", "whole"], "what has a record is not trained again"
    folder = tmp_path / "results" / "ablations" / "demo"
    table = json.loads((folder / "table.json").read_text())["trainings"]
    assert list(table) == ["as it is", "one_length", "whole"]
    assert table["whole"]["exact_match"] == table["as it is"]["exact_match"] and table["whole"]["change"] == 0.0
    made = json.loads((folder / "one_length" / "metrics.json").read_text())["made"]
    assert made["decoding"]["length_beam"] == 1 and made["data"]["fraction"] == 0.5
    assert (folder / "table.png").read_bytes()[:4] == b"\x89PNG"


def test_trainings_made_otherwise_are_not_taken_for_these(corpus: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fit(run: str, words: list[str], needed: bool) -> None:
        write_json(Path("results") / run / "metrics.json", dict.fromkeys(FIGURES, 50.0))

    monkeypatch.setattr("scripts.trainings.fit", fit)
    names = ("parser", "short", "long", "one", "other/one", "as_it_is")
    parser, short, long, one, other, base = (tmp_path / f"{name}.yaml" for name in names)
    for path in (parser, short, long, one, other, base):
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({"run": "parser", "data": {"vocabulary": len(str(path))}}))
    for _ in range(2):
        folder = ablations(parser, short, [one], str(corpus), ["--threads=1", "--seed_everything=1"])
    table = folder / "table.json"
    made = table.read_bytes()
    ablations(parser, short, [one], str(corpus), ["--seed_everything", "1", "--threads", "2"])
    assert table.read_bytes() == made, "threads change no training"
    rows = tmp_path / "rows"
    shutil.copytree(corpus, rows)
    (rows / "timer_train.tsv").unlink()
    seed = ["--seed_everything=1"]
    for trial, changes, root, words, code in (
        (long, [one], corpus, seed, "E494.*'as_it_is'"),
        (short, [one], corpus, ["--seed_everything=2"], "E494.*'as_it_is'.*Move results/ablations/parser"),
        (short, [one], rows, seed, "E494.*'as_it_is'"),
        (short, [other], corpus, seed, "E494.*'one'"),
        (short, [one, other], corpus, seed, "E495.*called one"),
        (short, [base], corpus, seed, "E495.*called as_it_is"),
    ):
        with pytest.raises(UsageError, match=code):
            ablations(parser, trial, changes, str(root), words)
    assert table.read_bytes() == made
    # A table of an earlier version tells the names of the two configs.
    write_json(table, {name: value for name, value in json.loads(made).items() if name != "made_by"})
    for trial, words in ((long, []), (short, seed)):
        with pytest.raises(UsageError, match="E494"):
            ablations(parser, trial, [one], str(corpus), words)
    ablations(parser, short, [one], str(corpus), ["--threads=1"])


def test_changes_of_earlier_calls_stay_in_the_table(corpus: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {"as_it_is": 50.0, "one": 51.0, "two": 49.0}

    def fit(run: str, words: list[str], needed: bool) -> None:
        write_json(Path("results") / run / "metrics.json", dict.fromkeys(FIGURES, found[Path(run).name]))

    monkeypatch.setattr("scripts.trainings.fit", fit)
    parser, trial, one, two = (tmp_path / f"{name}.yaml" for name in ("parser", "trial", "one", "two"))
    for path in (parser, trial, one, two):
        path.write_text(yaml.safe_dump({"run": "parser", "data": {"vocabulary": len(str(path))}}))

    def table(change: Path) -> dict[str, float]:
        folder = ablations(parser, trial, [change], str(corpus), [])
        rows = json.loads((folder / "table.json").read_bytes())["trainings"]
        return {name: row["change"] for name, row in rows.items()}

    assert table(one) == {"as it is": 0.0, "one": 1.0}
    assert table(two) == {"as it is": 0.0, "one": 1.0, "two": -1.0}
    assert table(one) == {"as it is": 0.0, "one": 1.0, "two": -1.0}
    # Another training to compare with, as nothing of the old one is there: what was compared with that goes.
    shutil.rmtree("results/ablations/parser/as_it_is")
    shutil.rmtree("results/ablations/parser/two")
    parser.write_text(yaml.safe_dump({"run": "parser", "data": {"vocabulary": 1}}))
    assert table(two) == {"as it is": 0.0, "two": -1.0}


def test_a_training_that_was_begun_is_not_taken_up_by_other_words(corpus: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def killed(run: str, words: list[str], needed: bool) -> None:
        (Path("runs") / run).mkdir(parents=True, exist_ok=True)
        (Path("runs") / run / "last.ckpt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("scripts.trainings.fit", killed)
    parser, trial = tmp_path / "parser.yaml", tmp_path / "trial.yaml"
    for path in (parser, trial):
        path.write_text(yaml.safe_dump({"run": "parser"}))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ablations(parser, trial, [], str(corpus), ["--seed_everything=1"])
    with pytest.raises(UsageError, match="E494"):
        ablations(parser, trial, [], str(corpus), ["--seed_everything=2"])


def test_a_fraction_is_the_same_rows_every_time(corpus: Path):
    def rows(fraction: float) -> set[tuple[str, str]]:
        data = TOPv2DataModule(str(corpus), fraction=fraction, vocabulary=300)
        data.setup("fit")
        return data.trained_on

    everything, half = rows(1.0), rows(0.5)
    assert half == rows(0.5) and half < everything
    with pytest.raises(ValueError, match=r"fraction 0\.0"):
        TOPv2DataModule(str(corpus), fraction=0.0)


def test_configs_that_are_none(tmp_path: Path, corpus: Path):
    with pytest.raises(UsageError, match="E404"):
        ablations(tmp_path / "none.yaml", tmp_path / "t.yaml", [], str(corpus), [])


def test_the_plot_is_a_picture():
    table = {"as it is": {"exact_match": 80.0, "change": 0.0}, "other": {"exact_match": 79.0, "change": -1.0}}
    assert plot(table)[:4] == b"\x89PNG"
