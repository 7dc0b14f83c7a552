"""Reading and writing corpora in the official TOPv2 layout.

A corpus is a folder of ``<domain>_<split>.tsv`` files whose first row is ``domain utterance semantic_parse``. The
low-resource splits, ``low_resource_splits/<domain>_<split>_<N>spis.tsv``, are splits like the others, by the names
``train_25spis``, ``valid_25spis`` and so on.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from frames.errors import CorpusError, FrameError, FramefillWarning
from frames.files import sha256, write_text
from frames.frame import Frame

DOMAINS = ("alarm", "event", "messaging", "music", "navigation", "reminder", "timer", "weather")
SPLITS = ("train", "eval", "test")
HEADER = ("domain", "utterance", "semantic_parse")
#: Code of the error of a decoupled frame that has several readings.
AMBIGUOUS = "E114"
#: Folder of the low-resource splits.
LOW_RESOURCE = "low_resource_splits"
#: The official low-resource files name the third column otherwise.
HEADERS = (HEADER, ("domain", "utterance", "seqlogical"))


@dataclass(frozen=True, slots=True)
class Example:
    """One row.

    Attributes:
        domain: first column.
        utterance: raw text.
        frame: the gold frame over it, in full form.
        where: file and line that it was read from, to name it in an error.
    """

    domain: str
    utterance: str
    frame: Frame
    where: str = field(default="", compare=False, repr=False)


def data_root(path: Path | str | None = None) -> Path:
    """The corpus folder: ``path``, or the environment variable ``TOPV2_DIR``.

    Raises:
        CorpusError: neither is given, or it is not a folder.
    """
    value = path or os.environ.get("TOPV2_DIR")
    if not value:
        raise CorpusError(
            "E201",
            "no corpus folder is given.",
            remedy="Set TOPV2_DIR or pass --data-root; `framefill data download --out DIR` fetches TOPv2, "
            "`framefill data synthetic --out DIR` writes the embedded corpus.",
        )
    root = Path(value)
    if not root.is_dir():
        raise CorpusError("E202", "no such folder.", where=str(root), remedy="Correct TOPV2_DIR or --data-root.")
    return root


def split_folder(root: Path, split: str) -> Path:
    """Folder of a split's files in a corpus folder."""
    return root / LOW_RESOURCE if split.endswith("spis") else root


def split_files(root: Path | str, split: str, domains: Sequence[str] | None = None) -> list[Path]:
    """Files of a split, each once, sorted by domain; any domain names, any subset of domains.

    Raises:
        CorpusError: no file of that split, or a domain asked for is missing; the message lists what is there.
    """
    root = split_folder(Path(root), split)
    found = {path.name[: -len(f"_{split}.tsv")]: path for path in _visible(root, f"*_{split}.tsv")}
    if not found:
        there = sorted({path.stem.split("_", 1)[-1] for path in _visible(root, "*_*.tsv")})
        raise CorpusError(
            "E203",
            f"there is no <domain>_{split}.tsv.",
            where=str(root),
            remedy=f"Splits there: {', '.join(there) or 'none'}.",
        )
    missing = sorted(set(domains or ()) - set(found))
    if missing:
        raise CorpusError(
            "E204",
            f"no {split} file for domain {', '.join(missing)}.",
            where=str(root),
            remedy=f"Domains there: {', '.join(sorted(found))}.",
        )
    return [found[name] for name in sorted(set(domains or found))]


def _visible(root: Path, pattern: str) -> list[Path]:
    """Files without the hidden ones, such as the ``._`` companions that macOS writes on foreign disks."""
    return [path for path in root.glob(pattern) if not path.name.startswith(".")]


def read_split(root: Path | str, split: str, domains: Sequence[str] | None = None) -> list[Example]:
    """All rows of a split, file by file in the order of domains.

    Raises:
        CorpusError: see :func:`split_files` and :func:`read_file`.
    """
    return [example for path in split_files(root, split, domains) for example in read_file(path)]


def read_lines(path: Path | str) -> list[str]:
    """Lines of a corpus file, without what ends them; only a newline does, with or without a carriage return.

    A byte order mark and blank lines at the end, which editors and spreadsheets add, are left out.

    Raises:
        CorpusError: missing file, bytes that are not UTF-8, or no lines at all.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorpusError(
            "E205", f"cannot be read ({error.strerror}).", where=str(path), remedy="Check the path."
        ) from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            "E206",
            f"byte {raw[error.start]:#04x} is not UTF-8.",
            where=f"{path}:{line}",
            remedy="Save the file as UTF-8.",
        ) from error
    lines = [line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise CorpusError("E207", "the file is empty.", where=str(path), remedy="It may be truncated; fetch it again.")
    return lines


def read_file(path: Path | str) -> list[Example]:
    """Reads one file; quotes are characters like any other, and only a newline ends a row.

    Rows may be decoupled. Where the text of a decoupled row's slots stands at several places in its utterance, the
    leftmost places in the order of the slots are taken, and a :class:`FramefillWarning` names the lines. (Of the 17,160
    eval rows of TOPv2, decoupled, 20 are such rows; the leftmost places are those of the full row for 15 of them.)

    Raises:
        CorpusError: missing file, wrong header, a row without exactly three columns, bytes that are not UTF-8,
            an empty utterance, a NUL byte, or no rows at all; a malformed frame is told with its line as well.
    """
    lines = read_lines(path)
    if tuple(lines[0].split("\t")) not in HEADERS:
        raise CorpusError(
            "E208",
            f"the header is {lines[0][:60]!r}.",
            where=f"{path}:1",
            remedy="TOPv2 files begin with the columns domain, utterance, semantic_parse, separated by tabs.",
        )
    if len(lines) == 1:
        raise CorpusError("E213", "the file has a header and no rows.", where=str(path), remedy="It may be truncated.")
    examples, ambiguous = [], []
    for number, line in enumerate(lines[1:], start=2):
        try:
            example = _row(line, f"{path}:{number}")
        except FrameError as error:
            if error.code != AMBIGUOUS:
                raise
            ambiguous.append(number)
            example = _row(line, f"{path}:{number}", leftmost=True)
        examples.append(example)
    if ambiguous:
        named = ", ".join(map(str, ambiguous[:10])) + (", ..." if len(ambiguous) > 10 else "")
        warnings.warn(
            f"{path}: {len(ambiguous)} decoupled row(s) with a slot whose text the utterance has at several places; the "
            f"leftmost is taken (lines {named}).",
            FramefillWarning,
            stacklevel=2,
        )
    return examples


def _row(line: str, where: str, leftmost: bool = False) -> Example:
    columns = line.split("\t")
    if len(columns) != len(HEADER):
        raise CorpusError(
            "E209",
            f"{len(columns)} column(s) instead of {len(HEADER)}: {line[:60]!r}.",
            where=where,
            remedy="A row is domain, utterance and semantic_parse, separated by tabs; a cut row means a truncated file.",
        )
    domain, utterance, parse = columns
    if "\0" in line:
        raise CorpusError(
            "E210", "the row holds a NUL byte.", where=where, remedy="The file is damaged; fetch it again."
        )
    if not utterance.strip():
        raise CorpusError(
            "E211", "the utterance (column 2) is empty.", where=where, remedy="Remove the row or fill it."
        )
    try:
        return Example(domain, utterance, Frame.parse(parse, utterance, f"{where}, column 3", leftmost), where)
    except FrameError as error:
        if not error.where:
            raise error.at(f"{where}, column 3") from error
        raise


def write_file(path: Path | str, examples: Iterable[Example], parses: Iterable[str] | None = None) -> None:
    """Writes rows in the official layout, whole or not at all.

    Args:
        path: file to write.
        examples: rows.
        parses: text of the third column where it should differ from ``str(frame)`` in whitespace.

    Raises:
        CorpusError: an utterance holds a tab or newline, which the layout cannot carry.
    """
    examples = list(examples)
    lines = ["\t".join(HEADER)]
    for example, parse in zip(examples, parses or (str(example.frame) for example in examples), strict=True):
        if any(character in example.utterance for character in "\t\n\r"):
            raise CorpusError(
                "E212",
                f"utterance {example.utterance[:40]!r} holds a tab or newline.",
                where=str(path),
                remedy="Replace it by a space.",
            )
        lines.append(f"{example.domain}\t{example.utterance}\t{parse}")
    write_text(path, "\n".join(lines) + "\n")


def corpus_checksum(root: Path | str, split: str, domains: Sequence[str] | None = None) -> str:
    """One SHA-256 over the names and contents of a split's files, to record what a figure was measured on."""
    digest = hashlib.sha256()
    for path in split_files(root, split, domains):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()
