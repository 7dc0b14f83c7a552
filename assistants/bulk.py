"""A table of utterances to a table of frames, on all cores, in constant memory, and resumed after a kill.

The table is cut into units of some rows. Each finished unit is a file in a hidden folder beside the output, written whole.
A run that is killed loses the units that were being parsed; the next run with the same arguments finds the others there
and ends with the same output as a run without a kill, for units are the same whatever was done before and by how many
processes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from assistants import runtime
from assistants.bundle import Bundle
from assistants.columns import COLUMNS, check_free, columns
from assistants.onnx_backend import BundleParser
from assistants.tables import JsonLines, Row, Table, table
from frames.errors import MachineError, UsageError, located
from frames.files import sha256, whole_file, write_json, write_text
from frames.locks import locked
from frames.outputs import check_output

#: Rows of a unit: some seconds of work.
ROWS = 1024
#: File that says what the parts in its folder belong to.
_JOB = "job.json"
#: File with the SHA-256 of the output, written before the output is.
_OUTPUT = "output.sha256"
#: Keys of a bundle's manifest that no answer depends on.
_ABOUT = {"metrics", "environment"}


@dataclass(frozen=True)
class Job:
    """What decides the output.

    Attributes:
        source: path of the table of utterances.
        size: of that file, in bytes.
        changed: when it was changed last, in nanoseconds.
        bundle: path of the bundle.
        digest: SHA-256 of its manifest, which holds decoding, confidence and the checksums of all other files.
        precision: of the graphs, None for the first that is there.
        column: that holds the utterances.
        names: columns of the table.
        rows: of a unit.
        suffix: of the output.
    """

    source: str
    size: int
    changed: int
    bundle: str
    digest: str
    precision: str | None
    column: str
    names: list[str]
    rows: int
    suffix: str


def parse_table(
    source: Path | str,
    out: Path | str,
    bundle: Path | str,
    column: str = "utterance",
    precision: str | None = None,
    processes: int = 0,
    overwrite: bool = False,
    rows: int = ROWS,
    progress: Callable[[int], None] = lambda rows: None,
) -> Path:
    """Parses a table. The output has its columns, and those of :data:`assistants.columns.COLUMNS`.

    Args:
        source: ``.parquet``, ``.csv`` or ``.jsonl``.
        out: the same kinds; written when all rows are parsed, and whole.
        bundle: folder or ``.zip`` written by ``framefill export``.
        column: that holds the utterances.
        precision: ``int8``, ``int4`` or ``fp32``; None takes the first of them that the bundle has.
        processes: that parse side by side, 0 for one a core.
        overwrite: replace a file at ``out``.
        rows: of a unit, the most that a process loses when it is killed.
        progress: called with the number of rows that were parsed, or found parsed by an earlier run.

    Returns:
        ``out``.

    Raises:
        BundleError: the bundle cannot be read.
        CorpusError: the table is damaged, or has values that the output cannot hold.
        UsageError: a kind of file that is not known, a column that is missing or taken, or a file at ``out``.
        MachineError: a process was killed, the disk is full, or a library is not installed. What is parsed is kept.
    """
    source, out = Path(source), Path(out)
    given, written = table(source), table(out)
    job = _job(source, out, given, Path(bundle), precision, column, rows)
    folder = out.with_name(f".{out.name}.parts")
    with locked(folder):
        begun = _is_of(folder, job)
        if not (begun and _is_written(folder, out)):
            # Under the lock, for a run that held it may have written the file.
            check_output(out, overwrite)
        if not begun and isinstance(given, JsonLines):
            _check_rows(source, given, written, job)
        _prepare(folder, job)
        parts = []
        with _pool(job, processes or os.cpu_count() or 1) as submit:
            for number, unit in enumerate(given.read(source, rows)):
                parts.append(folder / f"{number:08d}{job.suffix}")
                if parts[-1].exists():
                    progress(len(unit))
                else:
                    submit(unit, parts[-1], progress)
        if not parts:
            parts.append(folder / f"{0:08d}{job.suffix}")
            written.write(parts[0], [], job.names, COLUMNS, source)
        with whole_file(out) as temporary, located(str(source)):
            written.join(parts, temporary)
            write_text(folder / _OUTPUT, sha256(temporary))
        shutil.rmtree(folder)
    return out


def _job(source: Path, out: Path, given: Table, bundle: Path, precision: str | None, column: str, rows: int) -> Job:
    names = given.names(source)
    if column not in names and names:
        raise UsageError(
            "E551",
            f"the table has no column {column!r}, but {', '.join(map(repr, names))}.",
            where=str(source),
            remedy="Name the column of the utterances with --column.",
        )
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(
            "E555",
            f"the table has two columns {twice!r}, of which one would be lost.",
            where=str(source),
            remedy="Rename one of them.",
        )
    check_free(names, str(source))
    about = source.stat()
    manifest = {key: value for key, value in Bundle(bundle).manifest.items() if key not in _ABOUT}
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return Job(
        str(source.resolve()), about.st_size, about.st_mtime_ns, str(bundle.resolve()), digest, precision, column, names,
        rows, out.suffix,
    )  # fmt: skip


def _check_rows(source: Path, given: Table, written: Table, job: Job) -> None:
    """Whether all rows can be written, told before the first is parsed: those of JSON lines may differ from the first."""
    for number, unit in enumerate(given.read(source, job.rows)):
        for place, row in enumerate(unit, start=number * job.rows + 1):
            check_free(row, f"{source}: row {place}")
        with located(str(source)):
            written.check(unit, job.names, source)


def _is_of(folder: Path, job: Job) -> bool:
    """Whether a folder holds parts of a job."""
    try:
        return bool(json.loads((folder / _JOB).read_bytes()) == asdict(job))
    except (OSError, ValueError):
        return False


def _is_written(folder: Path, out: Path) -> bool:
    """Whether the output is what an earlier run of the job wrote before it was killed, and nobody's own file."""
    mark = folder / _OUTPUT
    return mark.is_file() and out.is_file() and mark.read_text(encoding="utf-8") == sha256(out)


def _prepare(folder: Path, job: Job) -> None:
    """The folder of a job's parts, those of another job removed."""
    if not _is_of(folder, job):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / _JOB, asdict(job))
    for unfinished in folder.glob(".*"):
        unfinished.unlink()


Submit = Callable[[list[Row], Path, Callable[[int], None]], None]


@contextmanager
def _pool(job: Job, processes: int) -> Iterator[Submit]:
    """Gives a function that has a unit parsed and written to a file; all are when the block ends."""
    if processes == 1:
        work = _Worker(job)
        yield lambda unit, part, progress: progress(work(unit, part))
        return
    # A bundle that cannot be loaded would end each process at its start, where nobody could be told why.
    runtime.load(job.bundle, job.precision)
    waiting: dict[Future[int], Callable[[int], None]] = {}

    def collect(most: int) -> None:
        """Waits until no more than so many units are on their way."""
        while len(waiting) > most:
            for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                waiting.pop(done)(done.result())

    # Forked children would share the threads and locks of libraries that the parent has used.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(job,)) as pool:

        def submit(unit: list[Row], part: Path, progress: Callable[[int], None]) -> None:
            collect(2 * processes - 1)
            waiting[pool.submit(_work, unit, part)] = progress

        try:
            yield submit
            collect(0)
        except BrokenProcessPool as error:
            raise MachineError(
                "E553",
                "a process that parses was killed.",
                remedy="Run the command again: what is parsed is kept. Give fewer --processes if memory ran out.",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Worker:
    """Parses units and writes them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._table = table(Path(f"x{job.suffix}"))
        self._parser: BundleParser = runtime.load(job.bundle, job.precision)

    def __call__(self, unit: list[Row], part: Path) -> int:
        """Writes the part of a unit; gives its number of rows."""
        found = columns(self._parser, [row.get(self._job.column) for row in unit])
        rows = [{**row, **{name: found[name][place] for name in COLUMNS}} for place, row in enumerate(unit)]
        with whole_file(part) as temporary:
            self._table.write(temporary, rows, self._job.names, COLUMNS, Path(self._job.source))
        return len(rows)


_worker: _Worker


def _start(job: Job) -> None:
    """Runs at the start of a process that parses."""
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = _Worker(job)


def _work(unit: list[Row], part: Path) -> int:
    return _worker(unit, part)


def _end_with_parent() -> None:
    """Ends this process when its parent is gone; a pool's processes would wait for work for ever after a kill."""
    parent: Any = multiprocessing.parent_process()
    wait_for([parent.sentinel])
    os._exit(1)
