"""Folders that a command writes as a whole, and the manifest by which such a folder is known again.

The manifest lists every other file of its folder with its SHA-256. A folder is replaced only when its manifest is this
program's and describes the folder exactly; anything else in it is somebody's own and stays.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from frames.errors import UsageError
from frames.files import machine_error, parse_json, sha256, write_json

#: Name of the manifest in its folder.
MANIFEST = "manifest.json"
#: Key and value that only this program's manifests have.
_AUTHOR = ("written_by", "framefill")
#: Keys of a bundle's manifest; bundles had manifests before :data:`_AUTHOR` was written into them.
_BUNDLE = {"format", "parser", "decoding", "files"}


def write_manifest(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes the manifest of a folder whose other files are complete.

    Args:
        folder: the folder.
        about: what the manifest says besides; ``files`` and the author are filled in here.
    """
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop(MANIFEST, None)
    name, author = _AUTHOR
    write_json(folder / MANIFEST, {**about, name: author, "files": files})


def is_manifest(value: Any) -> bool:
    """Whether parsed JSON is a manifest of this program's."""
    if not isinstance(value, dict) or not isinstance(value.get("files"), dict):
        return False
    name, author = _AUTHOR
    return value.get(name) == author or value.keys() >= _BUNDLE


def run_folder(root: Path, run: str) -> Path:
    """Folder of a run.

    Args:
        root: of all runs.
        run: name of the run.

    Raises:
        UsageError: the name leads out of ``root``, or is none.
    """
    name = PurePath(run)
    if name.is_absolute() or ".." in name.parts or not name.parts or not run.isprintable():
        raise UsageError(
            "E464",
            f"the run {run!r} would be outside of {root}/.",
            remedy="Give --run a name, which may have slashes, e.g. trials/first.",
        )
    return root / name


def check_replaceable(path: Path | str) -> None:
    """Whether writing a folder at ``path`` loses nothing but what this program wrote.

    Raises:
        UsageError: ``path`` is a file, or a folder that holds anything else: a file that its manifest does not list,
            a listed file that was changed since, a link, an empty folder.
        MachineError: the folder cannot be read.
    """
    path = Path(path)
    try:
        foreign = _foreign(path)
    except OSError as error:
        raise machine_error(path, error) from error
    if foreign is not None:
        raise UsageError(
            "E407",
            f"{foreign}, which would be lost if this folder were written.",
            where=str(path),
            remedy="Name a new folder, or move away what is there.",
        )


def _foreign(path: Path) -> str | None:
    """What in a folder is not this program's, None if there is nothing."""
    if not path.exists():
        return None
    if not path.is_dir():
        return "a file is there"
    if not any(path.iterdir()):
        return None
    manifest: Any = None
    if (path / MANIFEST).is_file():  # a device or pipe in its place may have no end
        with suppress(ValueError):
            manifest = parse_json((path / MANIFEST).read_bytes())
    listed: dict[str, str] = manifest["files"] if is_manifest(manifest) else {}
    for base, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = Path(base, name)
            relative = entry.relative_to(path).as_posix()
            if entry.is_symlink():
                return f"{relative} is a link"
            if name in folders:
                if not any(file.startswith(f"{relative}/") for file in listed):
                    return f"the folder {relative} was not written by framefill"
            elif relative == MANIFEST and is_manifest(manifest):
                continue
            elif relative not in listed:
                return f"{relative} was not written by framefill"
            elif not entry.is_file() or sha256(entry) != listed[relative]:
                return f"{relative} was changed since framefill wrote it"
    return None


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yields a temporary sibling folder that becomes ``path`` only when the block ends without an error.

    The block ends with :func:`write_manifest`, or the folder cannot be replaced later. An existing folder at ``path`` is
    replaced at the very end and is untouched by a failure; where ``path`` is a link, what it points to is replaced.

    Raises:
        UsageError: see :func:`check_replaceable`, which is asked before the block and again after it.
        MachineError: an ``OSError`` inside the block (disk full, no permission).
    """
    target = Path(path).resolve()
    _put_back(target)
    check_replaceable(path)
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        os.chmod(staging, 0o755)
        yield staging
        check_replaceable(path)
        _exchange(staging, target)
    except OSError as error:
        raise machine_error(Path(path), error) from error
    finally:
        if staging is not None and staging.exists():
            shutil.rmtree(staging, ignore_errors=True)


def _put_back(target: Path) -> None:
    """Undoes an exchange that a kill cut off halfway: the folder that was there is there again."""
    for retired in target.parent.glob(f".{glob.escape(target.name)}.old.*"):
        if not target.exists() and (retired / "old").is_dir():
            os.rename(retired / "old", target)
            retired.rmdir()


def _exchange(staging: Path, target: Path) -> None:
    """Puts one folder in another's place."""
    if not target.exists():
        os.rename(staging, target)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        os.rename(target, retired / "old")
        try:
            os.rename(staging, target)
        except OSError:
            os.rename(retired / "old", target)
            raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)
