"""Fetching the official TOPv2 archive: resumable, verified, whole or not at all."""

from __future__ import annotations

import http.client
import io
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from data.topv2.verify import official_sums, verify
from frames.errors import CorpusError, MachineError
from frames.files import UNREADABLE_ZIP, read_member
from frames.folders import atomic_folder, check_replaceable, write_manifest

#: The link that the authors give; it redirects to a zip archive.
OFFICIAL_URL = "https://fb.me/TOPv2Dataset"
_CHUNK = 1 << 16


def download(
    root: Path | str, url: str = OFFICIAL_URL, progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """Downloads, verifies and unpacks TOPv2.

    A broken download leaves ``<root>.zip.part``, from which the next call continues.

    Args:
        root: folder to write.
        url: where the archive is.
        progress: called with the bytes so far and the total, None when the server does not tell.

    Returns:
        ``root``.

    Raises:
        MachineError: no network, or the server breaks off.
        CorpusError: the archive is damaged or not the official corpus.
        UsageError: ``root`` holds anything that this program did not write.
    """
    root = Path(root)
    check_replaceable(root)
    part = root.with_name(root.name + ".zip.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    _fetch(url, part, progress)
    try:
        archive = zipfile.ZipFile(io.BytesIO(part.read_bytes()))
        names = {member: _official_name(member) for member in archive.namelist()}
        with atomic_folder(root) as folder:
            for member, name in names.items():
                if name is not None:
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(read_member(archive, member))
            wrong = [check.name for check in verify(folder) if check.status == "changed"]
            if wrong or not any(folder.glob("*_train.tsv")):
                # Kept, it would be read again by the next call, which finds nothing left to fetch.
                part.unlink()
                raise CorpusError(
                    "E221",
                    f"the archive is not the official TOPv2 1.1 ({', '.join(wrong) or 'no train files'}).",
                    where=url,
                    remedy="Try again later.",
                )
            write_manifest(folder, {"corpus": "TOPv2 1.1", "from": url})
    except UNREADABLE_ZIP as error:
        part.unlink()
        raise CorpusError(
            "E222", f"the archive is damaged ({error}).", where=url, remedy="Run the command again; it starts afresh."
        ) from error
    part.unlink()
    return root


def _official_name(member: str) -> str | None:
    """Place of an archive member in the corpus folder, None for what is not part of the corpus.

    Only names that the official list or the test split has are unpacked, so no member can leave the folder.
    """
    known = set(official_sums()) | {name.replace("_train", "_test") for name in official_sums() if "/" not in name}
    parts = Path(member).parts
    for depth in (2, 1):
        name = "/".join(parts[-depth:])
        if name in known:
            return name
    return None


def _fetch(url: str, part: Path, progress: Callable[[int, int | None], None] | None) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:
                done = 0  # the server sends everything again
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else None
            with open(part, "ab" if done else "wb") as stream:
                while chunk := answer.read(_CHUNK):
                    stream.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, total)
            if total is not None and done < total:
                raise OSError(f"{total - done} bytes are missing")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after what we have: the download was complete
            return
        raise _no_network(url, part, error) from error
    except (OSError, http.client.HTTPException) as error:
        raise _no_network(url, part, error) from error


def _no_network(url: str, part: Path, error: Exception) -> MachineError:
    return MachineError(
        "E510",
        f"the download failed ({' '.join(str(error).split())}).",
        where=url,
        remedy=f"Run the command again to continue, or open {OFFICIAL_URL} in a browser, unpack the archive into a folder, "
        f"and set TOPV2_DIR to it. Without TOPv2, `framefill data synthetic --out DIR` writes the embedded corpus.",
    )
