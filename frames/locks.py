"""One writer at a time, among threads and processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frames.errors import MachineError
from frames.files import machine_error

#: Seconds that a writer waits for another.
PATIENCE = 60.0


@contextmanager
def locked(path: Path | str, patience: float | None = None) -> Iterator[None]:
    """Keeps other writers away from a file or folder while the block runs.

    Whoever changes what it has read before holds the lock over both. The lock is a hidden file beside ``path``, which
    stays there; readers do not need it.

    Args:
        path: file or folder.
        patience: seconds to wait for another writer, None for :data:`PATIENCE`.

    Raises:
        MachineError: another writer holds the lock for longer, or it cannot be written.
    """
    patience = PATIENCE if patience is None else patience
    # Only writers need it; what reads a bundle loads faster without, and runs where it is not installed.
    from filelock import FileLock, Timeout

    path = Path(path).resolve()
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=patience)
    try:
        lock.acquire()
    except Timeout as error:
        raise MachineError(
            "E503",
            f"another process has been changing this for {patience:.0f} seconds.",
            where=str(path),
            remedy="Run the command again when it has ended.",
        ) from error
    except OSError as error:
        raise machine_error(path, error) from error
    try:
        yield
    finally:
        lock.release()
