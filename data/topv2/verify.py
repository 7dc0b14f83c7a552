"""Is this folder the official TOPv2 1.1?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from frames.files import sha256

_SUMS = Path(__file__).with_name("SHA256SUMS")


@dataclass(frozen=True)
class FileCheck:
    """One official file; ``status`` is ``ok``, ``missing`` or ``changed``."""

    name: str
    status: str


def official_sums() -> dict[str, str]:
    """SHA-256 of the official files by their path in the corpus folder."""
    pairs = (line.split(maxsplit=1) for line in _SUMS.read_text(encoding="utf-8").splitlines() if line.strip())
    return {name.strip().lstrip("*").removeprefix("./"): digest for digest, name in pairs}


def verify(root: Path | str) -> list[FileCheck]:
    """Compares every official file below the corpus folder with its checksum."""
    checks = []
    for name, digest in sorted(official_sums().items()):
        path = Path(root) / name
        status = "missing" if not path.is_file() else "ok" if sha256(path) == digest else "changed"
        checks.append(FileCheck(name, status))
    return checks
