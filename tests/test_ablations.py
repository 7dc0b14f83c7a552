import json
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

    def fit(run: str, words: list[str]) -> None:
        write_json(Path("results") / run / "metrics.json", dict.fromkeys(FIGURES, 50.0))

    monkeypatch.setattr("scripts.ablations.fit", fit)
    names = ("parser", "short", "long", "one", "other/one", "as_it_is")
    parser, short, long, one, other, base = (tmp_path / f"{name}.yaml" for name in names)
    for path in (parser, short, long, one, other, base):
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({"run": "parser", "data": {"vocabulary": len(str(path))}}))
    for _ in range(2):
        folder = ablations(parser, short, [one], str(corpus), ["--threads=1"])
    table = folder / "table.json"
    made = table.read_bytes()
    for trial, changes, words, code in (
        (long, [one], ["--threads=1"], "E494.*'as it is'.*results/ablations/parser"),
        (short, [one], ["--threads=2"], "E494.*'as it is'"),
        (short, [other], ["--threads=1"], "E494.*'one'"),
        (short, [one, other], ["--threads=1"], "E495.*called one"),
        (short, [base], ["--threads=1"], "E495.*called as_it_is"),
    ):
        with pytest.raises(UsageError, match=code):
            ablations(parser, trial, changes, str(corpus), words)
    assert table.read_bytes() == made
    # A table of an earlier version tells the names of the two configs.
    write_json(table, {name: value for name, value in json.loads(made).items() if name != "made_by"})
    with pytest.raises(UsageError, match="E494"):
        ablations(parser, long, [one], str(corpus), [])
    ablations(parser, short, [one], str(corpus), [])


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
