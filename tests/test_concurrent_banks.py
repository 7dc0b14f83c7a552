"""Scenarios that several threads or processes add at once are all kept."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from assistants import banks, runtime
from assistants.bundle import Bundle, changeable, keep_metrics, rewritten
from assistants.raf import RAFBundleParser
from frames import locks
from frames.errors import MachineError, UsageError
from frames.locks import locked
from retrieval.scenario import Scenario

NEW = [f"[IN:BREW_{name} [SL:AMOUNT ] ]" for name in ("COFFEE", "TEA", "BEER", "MATE")]


@pytest.fixture
def folder(tmp_path: Path, repository: Path) -> Path:
    return Path(shutil.copytree(repository / "models" / "raf-topv2", tmp_path / "raf"))


def known(bundle: Path) -> set[str]:
    return {str(scenario) for scenario in banks.read(Bundle(bundle)).bank}


def test_processes_that_add_at_once_keep_all(folder: Path):
    before = known(folder)
    script = "import sys; from scripts.cli import main; sys.exit(main(['bank', 'add', '--bundle', *sys.argv[1:]]))"
    running = [subprocess.Popen([sys.executable, "-c", script, str(folder), text]) for text in NEW[:3]]
    assert [process.wait(timeout=200) for process in running] == [0, 0, 0]
    assert known(folder) - before == {str(Scenario.parse(text)) for text in NEW[:3]}
    assert isinstance(runtime.load(folder), RAFBundleParser)


def test_threads_that_change_a_bundle_at_once_keep_all(folder: Path):
    before = sorted(known(folder))
    with ThreadPoolExecutor(4) as pool:
        gone = [Scenario.parse(text) for text in before[:4]]
        list(pool.map(lambda scenario: banks.change(folder, lambda table: table.removed(scenario)), gone))
    assert sorted(known(folder)) == before[4:]


def test_threads_that_add_to_one_parser_keep_all(folder: Path):
    parser = runtime.load(folder)
    assert isinstance(parser, RAFBundleParser)
    scenarios = [Scenario.parse(text.replace("[IN:", f"[IN:NEW_{i}_")) for i in range(5) for text in NEW]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda scenario: parser.add([scenario]), scenarios))
    assert all(scenario in parser.table.bank for scenario in scenarios)
    assert len(parser.table.bank) == len(parser.table.index)


def test_figures_do_not_undo_a_change(folder: Path):
    opened = changeable(folder)
    first = banks.read(opened).bank[0]
    banks.change(folder, lambda table: table.removed(first))
    with pytest.raises(UsageError, match="E452"):
        keep_metrics(opened, {"exact_match": 1.0})
    assert str(first) not in known(folder)
    keep_metrics(changeable(folder), {"exact_match": 1.0})
    assert Bundle(folder).manifest["metrics"] == {"exact_match": 1.0}


def test_figures_that_others_write_meanwhile_are_kept(folder: Path):
    opened, old = changeable(folder), changeable(folder)
    changed = {**opened.manifest, "confidence": {"threshold": 0.5}}
    (folder / "manifest.json").write_text(json.dumps(changed))
    keep_metrics(opened, {"exact_match": 1.0})
    assert Bundle(folder).manifest == {**changed, "metrics": {"exact_match": 1.0}}
    with rewritten(old, ()) as (_, manifest):
        manifest["confidence"] = {"threshold": 0.6}
    now = Bundle(folder).manifest
    assert (now["metrics"], now["confidence"]) == ({"exact_match": 1.0}, {"threshold": 0.6})


def test_figures_are_not_kept_for_other_decoding(folder: Path):
    opened = changeable(folder)
    changed = {**opened.manifest, "decoding": {**opened.manifest["decoding"], "length_beam": 1}}
    (folder / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(UsageError, match="E452"):
        keep_metrics(opened, {"exact_match": 1.0})
    assert Bundle(folder).manifest == changed


def test_a_bundle_that_is_replaced_while_it_is_read_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    first, load = banks.read(Bundle(folder)).bank[0], runtime._load

    def later(bundle, *options):
        monkeypatch.setattr(runtime, "_load", load)
        banks.change(folder, lambda table: table.removed(first))
        return load(bundle, *options)

    monkeypatch.setattr(runtime, "_load", later)
    parser = runtime.load(folder)
    assert isinstance(parser, RAFBundleParser) and first not in parser.table.bank


def test_a_folder_that_is_away_for_a_moment_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    away = folder.rename(folder.with_name("away"))
    monkeypatch.setattr(runtime.time, "sleep", lambda seconds: away.rename(folder))
    assert isinstance(runtime.load(folder), RAFBundleParser)


def test_an_export_meanwhile_is_not_undone(folder: Path):
    def edit(table):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["tokenizer.json"] = "0" * 64
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return table

    with pytest.raises(UsageError):
        banks.change(folder, edit)
    assert Bundle(folder).manifest["files"]["tokenizer.json"] == "0" * 64


def test_a_writer_does_not_wait_for_ever(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with locked(tmp_path / "x"), ThreadPoolExecutor(1) as pool:

        def second() -> None:
            with locked(tmp_path / "x"):
                raise AssertionError("both hold the lock")

        with pytest.raises(MachineError, match="E503"):
            pool.submit(second).result()
    with locked(tmp_path / "x"):
        pass
