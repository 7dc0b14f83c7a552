"""The bundle format: a folder, or one ``.zip``, whose manifest holds the SHA-256 of every other file.

Nothing in a bundle is executable or pickled: ONNX graphs, JSON and, for RAF, a FAISS index.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frames.errors import BundleError
from frames.files import UNREADABLE_ZIP, write_json
from frames.folders import MANIFEST

#: Version of the format; a reader refuses another.
FORMAT = 1


class Bundle:
    """Verified access to the files of a bundle.

    Args:
        path: folder or ``.zip``.

    Raises:
        BundleError: missing, not a bundle, another format version.
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
        content = self._raw(MANIFEST)
        try:
            self.manifest: dict[str, Any] = json.loads(content)
            version, self._sums = self.manifest["format"], self.manifest["files"]
        except (ValueError, KeyError, TypeError) as error:
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

    def has(self, name: str) -> bool:
        """Whether the manifest lists the file."""
        return name in self._sums

    def read(self, name: str) -> bytes:
        """A file's content, its checksum verified.

        Raises:
            BundleError: the file is missing or is not what the manifest says.
        """
        if not self.has(name):
            raise BundleError(
                "E324",
                f"the bundle has no {name}.",
                where=str(self.path),
                remedy=f"It holds {', '.join(sorted(self._sums))}.",
            )
        content = self._raw(name)
        if hashlib.sha256(content).hexdigest() != self._sums[name]:
            raise BundleError(
                "E325",
                "the content is not what the manifest's checksum says.",
                where=str(self.path / name),
                remedy="The file is corrupted; copy or export the bundle again.",
            )
        return content

    def _raw(self, name: str) -> bytes:
        try:
            if self._zip is not None:
                return self._zip.read(name)
            return (self.path / name).read_bytes()
        except (OSError, KeyError, *UNREADABLE_ZIP) as error:
            raise BundleError(
                "E326",
                f"cannot be read ({error}).",
                where=str(self.path / name),
                remedy="Copy or export the bundle again.",
            ) from error


def changeable(path: Path | str) -> Bundle:
    """A bundle that is about to be changed.

    Raises:
        BundleError: as :class:`Bundle`, or it is a zip.
    """
    if Path(path).is_file():
        raise BundleError("E329", "a zip is not changed in place.", where=str(path), remedy="Unpack it into a folder.")
    return Bundle(path)


def keep_metrics(bundle: Bundle, metrics: Mapping[str, Any]) -> None:
    """Writes figures of the bundle itself into its manifest.

    Args:
        bundle: as :func:`changeable` gives it.
        metrics: the figures.

    Raises:
        MachineError: the disk is full; the manifest is left as it was.
    """
    write_json(bundle.path / MANIFEST, {**bundle.manifest, "metrics": dict(metrics)})


def most_accurate(folder: Path) -> Path | None:
    """The bundle among the subfolders whose manifest tells the highest exact match; None if there is no bundle.

    Raises:
        BundleError: a manifest cannot be read.
    """
    found = {path.parent: Bundle(path.parent).manifest for path in sorted(folder.glob(f"*/{MANIFEST}"))}
    return max(found, key=lambda path: found[path].get("metrics", {}).get("exact_match", 0.0), default=None)
