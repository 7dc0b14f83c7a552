"""What a command may replace: its own folders and files, and nothing of a user's."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from assistants import runtime
from data.mtop.reader import convert
from data.synthetic import write_corpus
from data.topv2 import download as downloading
from data.topv2.describe import describe
from frames.errors import MachineError, UsageError
from frames.files import sha256
from frames.folders import MANIFEST, atomic_folder, check_replaceable, write_manifest
from frames.outputs import PREDICTIONS_HEADER, check_output


def small(root: Path) -> Path:
    return write_corpus(root, train=40, evaluation=8, test=4)


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_own_folders_are_replaced_and_empty_ones_filled(tmp_path: Path):
    (tmp_path / "made").mkdir()
    root = small(tmp_path / "made")
    first = content(root)
    next(root.glob("*_eval.tsv")).unlink()  # a file that is gone can't be lost
    small(root)
    assert content(root) == first
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_own_folders_with_subfolders_are_replaced(tmp_path: Path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "x") as folder:
            (folder / "a" / "b").mkdir(parents=True)
            (folder / "a" / "b" / "c.bin").write_text(text)
            write_manifest(folder, {})
    assert (tmp_path / "x" / "a" / "b" / "c.bin").read_text() == "new"


def _note(root: Path) -> None:
    (root / "notes.tsv").write_text("mine")


def _hidden(root: Path) -> None:
    (root / ".env").write_text("mine")


def _nested(root: Path) -> None:
    (root / "low_resource_splits").mkdir()
    (root / "low_resource_splits" / "alarm_train_10spis.tsv").write_text("mine")


def _empty_folder(root: Path) -> None:
    (root / "later").mkdir()


def _edited(root: Path) -> None:
    with open(root / "alarm_train.tsv", "a", encoding="utf-8") as stream:
        stream.write("alarm\tmine\t[IN:A mine ]\n")


def _linked(root: Path) -> None:
    (root / "here").symlink_to(root.parent, target_is_directory=True)


def _linked_file(root: Path) -> None:
    (root / "alarm_train.tsv").rename(root.parent / "moved.tsv")
    (root / "alarm_train.tsv").symlink_to(root.parent / "moved.tsv")


def _no_mark(root: Path) -> None:
    (root / MANIFEST).unlink()


def _foreign_mark(root: Path) -> None:
    files = {path.name: sha256(path) for path in root.glob("*.tsv")}
    (root / MANIFEST).write_text(json.dumps({"files": files}))


def _broken_mark(root: Path) -> None:
    (root / MANIFEST).write_text("{")


def _folder_for_mark(root: Path) -> None:
    (root / MANIFEST).unlink()
    (root / MANIFEST).mkdir()


@pytest.mark.parametrize(
    "change",
    [
        _note, _hidden, _nested, _empty_folder, _edited, _linked, _linked_file, _no_mark, _foreign_mark, _broken_mark,
        _folder_for_mark,
    ],
)  # fmt: skip
def test_a_folder_with_anything_of_a_users_stays(tmp_path: Path, change):
    root = small(tmp_path / "corpus")
    change(root)
    before = content(root)
    for write in (
        lambda: small(root),
        lambda: downloading.download(root, "http://127.0.0.1:9/"),
        lambda: convert(_mtop(tmp_path), "en", root),
    ):
        with pytest.raises(UsageError, match="E407"):
            write()
        assert content(root) == before


def _mtop(tmp_path: Path) -> Path:
    (tmp_path / "mtop" / "en").mkdir(parents=True, exist_ok=True)
    row = "\t".join(["1", "", "", "wake me", "alarm", "en", "[IN:A ]", json.dumps({"tokens": ["wake", "me"]})])
    for split in ("train", "eval", "test"):
        (tmp_path / "mtop" / "en" / f"{split}.txt").write_text(row + "\n")
    return tmp_path / "mtop"


def test_conversion_writes_a_folder_of_its_own(tmp_path: Path):
    for _ in range(2):
        assert convert(_mtop(tmp_path), "en", tmp_path / "out" / "en") == {"train": 1, "eval": 1, "test": 1}
    (tmp_path / "out" / "en" / "alarm_dev.tsv").write_text("mine")
    with pytest.raises(UsageError, match=r"E407.*alarm_dev\.tsv"):
        convert(_mtop(tmp_path), "en", tmp_path / "out" / "en")


def test_something_put_there_meanwhile_stays(tmp_path: Path):
    with pytest.raises(UsageError, match="E407"), atomic_folder(tmp_path / "x") as folder:
        write_manifest(folder, {})
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "mine").write_text("mine")
    assert (tmp_path / "x" / "mine").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_in_place_of_the_folder_stays(tmp_path: Path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UsageError, match="E407"):
        small(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_a_link_to_a_folder_goes_on_being_one(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    small(tmp_path / "disk" / "corpus")
    (tmp_path / "corpus").symlink_to(tmp_path / "disk" / "corpus")
    small(tmp_path / "corpus")
    assert (tmp_path / "corpus").is_symlink()
    assert (tmp_path / "corpus" / MANIFEST).exists()


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path):
    target = tmp_path / "bundle"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("old")
        write_manifest(folder, {})
    with pytest.raises(MachineError, match="No space left"), atomic_folder(target) as folder:
        (folder / "a").write_text("new")
        raise OSError(28, "No space left on device")
    assert (target / "a").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_a_failed_exchange_puts_the_old_folder_back(tmp_path: Path, monkeypatch):
    target = tmp_path / "bundle"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("old")
        write_manifest(folder, {})
    rename = os.rename

    def refuse(source, destination):
        if Path(destination) == target and Path(source).name != "old":
            raise OSError(5, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr("os.rename", refuse)
    with pytest.raises(MachineError, match="Input/output"), atomic_folder(target) as folder:
        (folder / "a").write_text("new")
        write_manifest(folder, {})
    assert (target / "a").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_the_included_bundles_may_be_replaced(repository: Path):
    for manifest in (repository / "models").glob(f"*/{MANIFEST}"):
        check_replaceable(manifest.parent)
    with pytest.raises(UsageError, match="E407.*not written by framefill"):
        check_replaceable(repository)
    with pytest.raises(UsageError, match="E407"):
        check_replaceable(repository / "models")


def test_own_files_are_replaced(tmp_path: Path, corpus: Path):
    record = {"exact_match": 1.0, "environment": {"commit": "", "versions": {}, "hardware": {}}}
    (tmp_path / "a.json").write_text(json.dumps(record))
    (tmp_path / "a.tsv").write_text(PREDICTIONS_HEADER + "alarm\tx\t[IN:A ]\t[IN:A ]\t1\n")
    (tmp_path / "a.safetensors").write_bytes(save({"x": np.zeros(2)}, {"framefill": "{}"}))
    (tmp_path / "empty.json").touch()
    describe(corpus, tmp_path / "a.html")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(MANIFEST, json.dumps({"written_by": "framefill", "files": {"x.onnx": ""}}))
        archive.writestr("x.onnx", b"")
    for path in (*tmp_path.iterdir(), tmp_path / "none.json"):
        check_output(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"environment": "production"}'),
        ("a.json", '{"made": {"by": "me"}}'),
        ("a.json", "[1, 2]"),
        ("a.json", "{"),
        ("alarm_train.tsv", "domain\tutterance\tsemantic_parse\nalarm\tx\t[IN:A x ]\n"),
        ("a.tsv", PREDICTIONS_HEADER.replace("exact", "exact\tmy remark")),
        ("a.html", "<html><title>framefill</title></html>"),
        ("a.safetensors", "weights of mine"),
        ("a.safetensors", "x"),
        ("a.zip", "PK"),
        ("notes", "mine"),
        (".bashrc", "mine"),
    ],
)
def test_files_of_a_users_stay_unless_asked(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    (tmp_path / "link").symlink_to(tmp_path / name)
    for path in (tmp_path / name, tmp_path / "link"):
        with pytest.raises(UsageError, match="E450"):
            check_output(path)
        check_output(path, overwrite=True)


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"environment": {}}]', "[]", '{"a": 1, "a": 2}'])
def test_odd_json_of_a_users_stays(text: str, tmp_path: Path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match="E450"):
        check_output(tmp_path / "x.json")
    assert (tmp_path / "x.json").read_text() == text


def test_a_list_of_records_is_replaced(tmp_path: Path):
    record = {"exact_match": 1.0, "environment": {"commit": "", "versions": {}, "hardware": {}}}
    (tmp_path / "x.json").write_text(json.dumps([record, record]))
    check_output(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps([record, {"mine": 1}]))
    with pytest.raises(UsageError, match="E450"):
        check_output(tmp_path / "x.json")


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_output(tmp_path / "new" / "folder" / "x.json")
    assert not list(tmp_path.iterdir())

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(MachineError, match=r"E501.*x\.json.*Permission denied"):
        check_output(tmp_path / "x.json")


def test_weights_and_zips_of_others_stay(tmp_path: Path):
    (tmp_path / "a.safetensors").write_bytes(save({"x": np.zeros(2)}, {"format": "pt"}))
    (tmp_path / "b.safetensors").write_bytes(save({"x": np.zeros(2)}))
    for name, manifest in (("c.zip", {"files": {}}), ("d.zip", {"written_by": "framefill", "files": {}})):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(MANIFEST, json.dumps(manifest))
            archive.writestr("photo.jpg", b"mine")
    for path in tmp_path.iterdir():
        with pytest.raises(UsageError, match="E450"):
            check_output(path)


def test_what_is_no_regular_file_is_no_output(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        for overwrite in (False, True):
            with pytest.raises(UsageError, match="E451"):
                check_output(path, overwrite)


@pytest.mark.parametrize("top", ["", "my.bundle/"])
def test_a_zip_with_a_top_folder_is_a_bundle(tmp_path: Path, repository: Path, top: str):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("__MACOSX/manifest.json", b"")
        for path in (repository / "models" / "conv-nar-topv2").iterdir():
            archive.write(path, top + path.name)
    frame = runtime.load(tmp_path / "a.zip").parse(["wake me at 6"])[0][0].frame
    assert str(frame) == "[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]"
