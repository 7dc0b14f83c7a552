"""Reading the official layout of TOP, ``train.tsv``, ``eval.tsv`` and ``test.tsv``.

A row has three columns and no header: the raw utterance, the utterance in tokens, and the frame over all of its tokens.
"""

from __future__ import annotations

from pathlib import Path

from data.topv2.convert import write_corpus
from data.topv2.reader import SPLITS, Example, read_lines
from frames.errors import CorpusError, FrameError, located
from frames.frame import Frame

COLUMNS = ("raw utterance", "tokenized utterance", "frame")
#: TOP has no column of domains, so a converted corpus has one domain.
DOMAIN = "top"
#: What the labels of intents begin with whose requests the annotation calls unsupported.
UNSUPPORTED = "UNSUPPORTED"


def read_file(path: Path | str) -> list[Example]:
    """All rows of a split.

    The frame is placed over the raw utterance. Where the tokens have other characters than the raw utterance (the tokenizer
    of TOP rewrites some quotes), the utterance of the row is its tokens.

    Raises:
        CorpusError: the file is missing, empty or not UTF-8, or a row has other columns or an empty utterance.
        FrameError: a malformed frame, or one whose words are neither those of the utterance nor its tokens.
    """
    return [_row(line, f"{path}:{number}") for number, line in enumerate(read_lines(path), start=1)]


def convert(root: Path | str, out: Path | str, supported_only: bool = False) -> dict[str, int]:
    """Writes TOP in the layout of TOPv2, as the domain ``top``.

    Args:
        root: folder of the three files.
        out: folder to write, whole or not at all.
        supported_only: leave out rows whose intent begins with :data:`UNSUPPORTED`.

    Returns:
        Rows of each split.

    Raises:
        CorpusError: see :func:`read_file`.
        UsageError: ``out`` holds anything that this program did not write.
        MachineError: the disk is full.
    """
    splits = {split: read_file(Path(root) / f"{split}.tsv") for split in SPLITS}
    if supported_only:
        splits = {
            split: [example for example in examples if not example.frame.root.label.startswith(UNSUPPORTED)]
            for split, examples in splits.items()
        }
    return write_corpus(out, splits, {"corpus": "TOP", "supported_only": supported_only})


def _row(line: str, where: str) -> Example:
    columns = line.split("\t")
    if len(columns) != len(COLUMNS):
        raise CorpusError(
            "E244",
            f"{len(columns)} column(s) instead of {len(COLUMNS)}: {line[:60]!r}.",
            where=where,
            remedy=f"A row of TOP is {', '.join(COLUMNS)}, separated by tabs.",
        )
    utterance, tokens, text = columns
    if not utterance.strip():
        raise CorpusError(
            "E245", "the utterance (column 1) is empty.", where=where, remedy="Remove the row or fill it."
        )
    with located(f"{where}, column 3"):
        try:
            return Example(DOMAIN, utterance, Frame.parse(text, utterance), where)
        except FrameError:
            return Example(DOMAIN, tokens, Frame.parse(text, tokens), where)
