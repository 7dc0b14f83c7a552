"""The bundle format: a folder, or one ``.zip``, whose manifest holds the SHA-256 of every other file.

Nothing in a bundle is executable or pickled: ONNX graphs, JSON and, for RAF, a FAISS index. :mod:`assistants.untrusted` has
the checks of what a stranger may have written.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import stat
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from assistants.untrusted import (
    MAX_BYTES,
    MAX_MANIFEST,
    check_archive,
    check_names,
    check_size,
    check_tensors,
    unpacked,
)
from frames.errors import BundleError, FramefillError, UsageError
from frames.files import UNREADABLE_ZIP, read_member, write_bytes, write_json
from frames.folders import MANIFEST, atomic_folder, write_manifest
from frames.locks import locked

#: Version of the format; a reader refuses another.
FORMAT = 1
#: Suffix of a graph's file name for each precision, in the order in which they are preferred.
PRECISIONS = {"int8": ".int8.onnx", "int4": ".int4.onnx", "fp32": ".onnx"}
#: Suffix of a file that is kept compressed; whoever reads it names it without.
PACKED = ".gz"
#: Stands before the number of a part.
PART = ".part"
#: Keys of a manifest that tell of a bundle and change none of its frames.
FIGURES = ("metrics", "confidence")


class Bundle:
    """Verified access to the files of a bundle.

    Args:
        path: folder or ``.zip``.

    Raises:
        BundleError: missing, not a bundle, another format version, or made to harm its reader.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise BundleError("E320", "no such bundle.", where=str(path), remedy="Write one with `framefill export`.")
        self._zip: zipfile.ZipFile | None = None
        if self.path.is_file():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (*UNREADABLE_ZIP, OSError) as error:
                raise BundleError(
                    "E321",
                    f"neither a bundle folder nor a readable zip ({error}).",
                    where=str(path),
                    remedy="Copy it again.",
                ) from error
            check_archive(self._zip, self.path.stat().st_size, str(path))
        self._top = self._top_folder()
        content = self._raw(MANIFEST, MAX_MANIFEST)
        try:
            self.manifest: dict[str, Any] = json.loads(content)
            version, self._sums = self.manifest["format"], self.manifest["files"]
            if not isinstance(self._sums, dict):
                raise TypeError("files is not a mapping")
            # JSON can hold half of a surrogate pair, with which no manifest could be written again.
            json.dumps(self.manifest, ensure_ascii=False).encode()
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(
                "E322",
                f"the manifest cannot be read ({error!r}).",
                where=str(self.path / MANIFEST),
                remedy="Copy or export the bundle again.",
            ) from error
        if version != FORMAT:
            raise BundleError(
                "E323",
                f"bundle format {version!r}, this framefill reads {FORMAT}.",
                where=str(path),
                remedy="Export again with this version.",
            )
        check_names(self._sums, str(path))

    def has(self, name: str) -> bool:
        """Whether the manifest lists the file, whole or in parts, compressed or not."""
        return bool(self._files(name)[0])

    def graphs(self) -> dict[str, str]:
        """Names that :meth:`read` knows of the graphs, by the graph, in the first of :data:`PRECISIONS` that is there.

        Raises:
            BundleError: there are none.
        """
        # Of a file that is stored in parts or compressed, the manifest has those names.
        files = sorted({re.sub(rf"({PACKED})?({PART}\d+)?$", "", name) for name in self._sums})
        for suffix in PRECISIONS.values():
            named = {file.removesuffix(suffix): file for file in files if file.endswith(suffix)}
            # Names of all graphs end as those of fp32 do.
            if found := {graph: file for graph, file in named.items() if "." not in graph}:
                return found
        raise BundleError(
            "E581", "the bundle has no graphs.", where=str(self.path), remedy="Copy or export the bundle again."
        )

    def read(self, name: str) -> bytes:
        """A file's content, its checksum verified, its parts put together, unpacked if it is compressed.

        Raises:
            BundleError: the file is missing, is not what the manifest says, or has tensors without their data.
        """
        files, packed = self._files(name)
        if not files:
            raise BundleError(
                "E324",
                f"the bundle has no {name}.",
                where=str(self.path),
                remedy=f"It holds {', '.join(sorted(self._sums))}.",
            )
        content = self._verified(files[0]) if len(files) == 1 else b"".join(map(self._verified, files))
        if packed:
            content = unpacked(content, str(self.path / files[0]))
        check_tensors(name, content, str(self.path))
        return content

    def _files(self, name: str) -> tuple[list[str], bool]:
        """The file, or its parts in their order, and whether they are compressed; nothing if the manifest lists neither."""
        for stored in (name, name + PACKED):
            parts = takewhile(self._sums.__contains__, (part_name(stored, number) for number in count(1)))
            if files := [stored] if stored in self._sums else list(parts):
                return files, stored != name
        return [], False

    def _verified(self, name: str) -> bytes:
        content = self._raw(name)
        if hashlib.sha256(content).hexdigest() != self._sums[name]:
            raise BundleError(
                "E325",
                "the content is not what the manifest's checksum says.",
                where=str(self.path / name),
                remedy="The file is corrupted; copy or export the bundle again.",
            )
        return content

    def _top_folder(self) -> str:
        """The folder of a zip that holds the bundle, with a slash: empty unless a folder was packed as a whole."""
        names = self._zip.namelist() if self._zip is not None else []
        tops = [name.removesuffix(MANIFEST) for name in names if name.endswith(f"/{MANIFEST}")]
        tops = [top for top in tops if top.count("/") == 1 and top != "__MACOSX/"]
        return tops[0] if MANIFEST not in names and len(tops) == 1 else ""

    def _raw(self, name: str, limit: int = MAX_BYTES) -> bytes:
        try:
            if self._zip is not None:
                check_size(self._zip.getinfo(self._top + name).file_size, limit, str(self.path / name))
                return read_member(self._zip, self._top + name)
            told = (self.path / name).stat()
            if not stat.S_ISREG(told.st_mode):
                raise OSError("no regular file")  # a device or pipe may have no end
            check_size(told.st_size, limit, str(self.path / name))
            with open(self.path / name, "rb") as stream:
                return stream.read(told.st_size)
        except (OSError, KeyError, *UNREADABLE_ZIP) as error:
            raise BundleError(
                "E326",
                f"cannot be read ({error}).",
                where=str(self.path / name),
                remedy="Copy or export the bundle again.",
            ) from error


def bundle_name(path: Path) -> str:
    """Name of a bundle at a path."""
    return path.resolve().name.removesuffix(".zip")


def part_name(name: str, number: int) -> str:
    """Name of a part of a file, numbered from 1."""
    return f"{name}{PART}{number}"


def write_packed(path: Path, content: bytes, largest: int | None) -> None:
    """As :func:`write_in_parts`, compressed."""
    write_in_parts(path.with_name(path.name + PACKED), gzip.compress(content, mtime=0), largest)


def write_in_parts(path: Path, content: bytes, largest: int | None) -> None:
    """Writes a file of a bundle, in parts of at most ``largest`` bytes if it is larger; None for a whole file."""
    if largest is None or len(content) <= largest:
        write_bytes(path, content)
        return
    for number, begin in enumerate(range(0, len(content), largest), start=1):
        write_bytes(path.with_name(part_name(path.name, number)), content[begin : begin + largest])


@contextmanager
def made_by_anyone(path: Path | str) -> Iterator[None]:
    """Turns whatever the block raises on a bundle's content into an error of the bundle.

    Raises:
        BundleError: the content is not what a parser needs.
    """
    try:
        yield
    except FramefillError:
        raise
    except Exception as error:  # a manifest or graph that its writer made up fails in ways that no list foresees
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise BundleError(
            "E394", f"a file is not what a parser needs ({reason}).", where=str(path), remedy="Export the bundle again."
        ) from error


def changeable(path: Path | str) -> Bundle:
    """A bundle that is about to be changed.

    Raises:
        BundleError: as :class:`Bundle`, or it is a zip.
    """
    if Path(path).is_file():
        raise BundleError("E329", "a zip is not changed in place.", where=str(path), remedy="Unpack it into a folder.")
    return Bundle(path)


def unchanged(bundle: Bundle) -> Bundle:
    """A bundle as it is now, which at most tells other :data:`FIGURES` than when it was opened.

    Raises:
        UsageError: it was exported anew, or scenarios were added or removed.
    """
    now = Bundle(bundle.path)
    before, after = ({key: value for key, value in one.manifest.items() if key not in FIGURES} for one in (bundle, now))
    if before != after:
        raise UsageError(
            "E452", "the bundle was changed meanwhile.", where=str(bundle.path), remedy="Run the command again."
        )
    return now


@contextmanager
def rewritten(bundle: Bundle, without: Collection[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields a copy of a bundle's folder and of its manifest, which replace the bundle when the block ends without an error.

    Args:
        bundle: as :func:`changeable` gives it; its folder is :func:`frames.locks.locked`.
        without: files that the block writes anew, or that go.

    Raises:
        BundleError: a file is damaged.
        UsageError: the folder holds anything that is not the bundle's, or was exported anew meanwhile.
        MachineError: the disk is full; the bundle is left as it was.
    """
    with atomic_folder(bundle.path) as staging:
        now = unchanged(bundle)
        manifest = dict(now.manifest)
        for name in manifest["files"]:
            if name not in without:
                write_bytes(staging / name, now.read(name))
        yield staging, manifest
        write_manifest(staging, manifest)
        unchanged(now)


def keep_metrics(bundle: Bundle, metrics: Mapping[str, Any]) -> None:
    """Writes figures of the bundle itself into its manifest.

    Args:
        bundle: as :func:`changeable` gives it, before the figures were measured.
        metrics: the figures.

    Raises:
        UsageError: the bundle was changed since it was opened, so the figures are not its own.
        MachineError: the disk is full; the manifest is left as it was.
    """
    with locked(bundle.path):
        write_json(bundle.path / MANIFEST, {**unchanged(bundle).manifest, "metrics": dict(metrics)})


def most_accurate(folder: Path) -> Path | None:
    """The bundle among the subfolders whose manifest tells the highest exact match; None if there is no bundle.

    Raises:
        BundleError: a manifest cannot be read.
    """
    found = {path.parent: Bundle(path.parent).manifest for path in sorted(folder.glob(f"*/{MANIFEST}"))}
    return max(found, key=lambda path: found[path].get("metrics", {}).get("exact_match", 0.0), default=None)
