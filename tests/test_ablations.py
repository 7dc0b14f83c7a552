import json
from pathlib import Path

import pytest
import yaml

from frames.errors import UsageError
from lightning_modules.datamodule import TOPv2DataModule
from scripts.ablations import ablations, plot
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
