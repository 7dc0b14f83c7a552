"""Whole-or-nothing file writing and checksums, shared by every module that writes a file."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frames.errors import BundleError, MachineError

try:
    from lzma import LZMAError
except ImportError:  # a Python may be built without it, and then its zipfile raises no such error
    from zlib import error as LZMAError  # type: ignore[assignment]

#: What ``zipfile`` raises on reading a damaged archive, depending on which of its bytes are wrong.
UNREADABLE_ZIP = (
    zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError,
    OverflowError,
)  # fmt: skip
#: How the files of a zip may be packed; ``zipfile`` unpacks the others without a bound on what comes out.
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def write_text(path: Path | str, text: str) -> None:
    """Writes ``text`` as UTF-8 to a temporary sibling, then renames it over ``path``.

    Raises:
        MachineError: the disk is full or the folder cannot be written; ``path`` is left as it was.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path | str, payload: bytes) -> None:
    """As :func:`write_text`, for bytes."""
    with whole_file(path) as temporary:
        temporary.write_bytes(payload)


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yields the path of a temporary sibling that becomes ``path`` only when the block ends without an error.

    Raises:
        MachineError: an ``OSError`` inside the block (disk full, no permission); ``path`` is left as it was.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        yield Path(temporary)
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes files private to the user; what we write is meant to be shared like any other file.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise machine_error(path, error) from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def write_json(path: Path | str, value: Any) -> None:
    """Writes ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of a zip, of which no more is unpacked than the zip says that it has.

    Raises:
        KeyError: there is none.
        BadZipFile: it is packed in no way of :data:`BOUNDED`, or is not what the zip says; others of
            :data:`UNREADABLE_ZIP`, where other bytes are wrong.
    """
    entry = archive.getinfo(name)
    if entry.compress_type not in BOUNDED:
        raise zipfile.BadZipFile(f"{name} is neither stored nor deflated")
    try:
        with archive.open(entry) as stream:
            # Without a size, the whole stream would be unpacked before it is cut.
            return stream.read(entry.file_size)
    except ValueError as error:  # its place lies before the file's begin
        raise zipfile.BadZipFile(str(error)) from error


def parse_json(text: str | bytes) -> Any:
    """JSON as plain values.

    Raises:
        ValueError: the text is not JSON, is nested too deeply to be read, or has a key twice, of which one value would be
            lost.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return found


def read_json(path: Path | str, what: str, code: str) -> Any:
    """Reads what :func:`write_json` wrote.

    Args:
        path: the file.
        what: it holds, for the message of an error.
        code: of that error.

    Raises:
        BundleError: the file is missing or not JSON.
    """
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(
            code, f"cannot be read as {what} ({error}).", where=str(path), remedy="Check the path, or make it again."
        ) from error


def check_version(value: Mapping[str, Any], version: int, what: str, code: str, where: str) -> None:
    """Whether a saved value is of the version that is read here.

    Raises:
        BundleError: it is of another.
        KeyError: it names none.
    """
    if value["version"] != version:
        raise BundleError(
            code,
            f"{what} version {value['version']!r}, this framefill reads {version}.",
            where=where,
            remedy="Export again with this version.",
        )


def machine_error(path: Path, error: OSError) -> MachineError:
    """The error for a file or folder that the system refused to read or write."""
    return MachineError(
        "E501",
        f"could not be written ({error.strerror or error}).",
        where=str(path),
        remedy="Nothing was left half-written; free space or choose another folder, then run again.",
    )
