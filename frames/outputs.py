"""Single files that a command is asked to write: may the file that is there be replaced?"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from frames.errors import UsageError
from frames.files import UNREADABLE_ZIP, machine_error, parse_json, read_member
from frames.folders import MANIFEST, is_manifest

#: First line of a file of predictions.
PREDICTIONS_HEADER = "domain\tutterance\tgold\tpredicted\texact\n"
#: Stands in the head of every HTML report.
HTML_MARK = '<meta name="generator" content="framefill">'
#: Keys of the environment that every record of figures carries.
_ENVIRONMENT = {"commit", "versions", "hardware"}
#: A longer header of safetensors is none (the format's own limit).
_HEADER_LIMIT = 100_000_000


def check_output(path: Path | str, overwrite: bool = False) -> None:
    """Whether a command may write its output to ``path``.

    A file is replaced without being asked when it is empty or carries this program's mark: records of figures,
    predictions, packed weights, reports, zipped bundles. Files in the layout of TOPv2 carry no mark, so they never are.

    Args:
        path: the file that the command will write, whole.
        overwrite: replace any file.

    Raises:
        UsageError: a file is there that is not this program's, or ``path`` is no regular file.
        MachineError: the file cannot be read, or none can be written there.
    """
    path = Path(path)
    try:
        if not path.exists():
            # A place that cannot be written is told before the work whose result it is to hold.
            with tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())):
                return
        if not path.is_file():
            raise UsageError(
                "E451", "this is not a regular file.", where=str(path), remedy="Name a file for the output."
            )
        if overwrite or path.stat().st_size == 0 or any(recognise(path) for recognise in _RECOGNISERS):
            return
    except OSError as error:
        raise machine_error(path, error) from error
    raise UsageError(
        "E450",
        "this file was not written by framefill and would be lost.",
        where=str(path),
        remedy="Name another file, or pass --overwrite to replace it.",
    )


def _is_record(path: Path) -> bool:
    if path.suffix != ".json":
        return False
    try:
        value = parse_json(path.read_bytes())
    except ValueError:
        return False
    records = value if isinstance(value, list) else [value]
    environments = [record.get("environment") if isinstance(record, dict) else None for record in records]
    return bool(environments) and all(isinstance(e, dict) and e.keys() >= _ENVIRONMENT for e in environments)


def _is_predictions(path: Path) -> bool:
    return _start(path, len(PREDICTIONS_HEADER)) == PREDICTIONS_HEADER.encode()


def _is_report(path: Path) -> bool:
    return HTML_MARK.encode() in _start(path, 1000)


def _is_weights(path: Path) -> bool:
    size = int.from_bytes(_start(path, 8), "little")
    if size > min(_HEADER_LIMIT, path.stat().st_size):
        return False
    try:
        header = parse_json(_start(path, 8 + size)[8:])
    except ValueError:
        return False
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and "framefill" in metadata


def _is_bundle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(MANIFEST).file_size > _HEADER_LIMIT:
                return False
            manifest = parse_json(read_member(archive, MANIFEST))
            return is_manifest(manifest) and set(archive.namelist()) <= {MANIFEST, *manifest["files"]}
    except (*UNREADABLE_ZIP, ValueError, KeyError):
        return False


def _start(path: Path, size: int) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(size)


_RECOGNISERS: tuple[Callable[[Path], bool], ...] = (_is_record, _is_predictions, _is_report, _is_weights, _is_bundle)
