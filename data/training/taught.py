"""Rows that a parser teaches another: its own frames over utterances that nobody annotated.

Sequence-level knowledge distillation (Kim and Rush 2016, arXiv 1606.07947), which parsers that write all positions at once
gain from (Gu et al. 2018, arXiv 1711.02281). The utterances are variants of training rows; what matters is that the teacher
has read each as it stands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.topv2.convert import write_corpus
from data.topv2.reader import AMBIGUOUS, Example, corpus_checksum, read_split
from data.training.augment import swap_values
from data.training.utterances import exchange_words, join_halves
from frames.errors import CorpusError, FrameError, UsageError
from frames.frame import Frame

#: Columns of a table of variants.
COLUMNS = ("domain", "utterance")
#: Columns that parsing such a table adds, of those that are read here.
PARSED = ("frame", "probability")


def variants(examples: Sequence[Example], ways: Sequence[str], copies: int, seed: int) -> list[dict[str, str]]:
    """Utterances to be parsed by a teacher, as rows of :data:`COLUMNS`; none is a training row, and none comes twice.

    Args:
        examples: training rows.
        ways: how they are made of the rows of a domain, of :data:`WAYS`.
        copies: variants drawn for each row in each way.
        seed: of the draws.
    """
    domains: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        domains[example.domain].append(example)
    made = []
    for domain, rows in domains.items():
        known = {example.utterance for example in rows}
        drawn = (utterance for way in ways for utterance in WAYS[way](rows, copies, seed))
        fresh = dict.fromkeys(utterance for utterance in drawn if utterance not in known)
        made += [dict(zip(COLUMNS, (domain, utterance), strict=True)) for utterance in fresh]
    return made


def _swapped(rows: Sequence[Example], copies: int, seed: int) -> list[str]:
    return [variant.utterance for variants in swap_values(rows, copies, seed) for variant in variants]


def _exchanged(rows: Sequence[Example], copies: int, seed: int) -> list[str]:
    return exchange_words([row.utterance for row in rows], copies, seed)


def _joined(rows: Sequence[Example], copies: int, seed: int) -> list[str]:
    return join_halves([row.utterance for row in rows], copies, seed)


#: How utterances are made of training rows of one domain: slots filled with other rows' text, words exchanged, halves joined.
WAYS: dict[str, Callable[[Sequence[Example], int, int], list[str]]] = {
    "values": _swapped,
    "words": _exchanged,
    "halves": _joined,
}


def taught(rows: Iterable[Mapping[str, Any]], least: float, where: str = "") -> list[Example]:
    """The rows whose frame the teacher holds for right.

    Args:
        rows: :data:`COLUMNS` and :data:`PARSED`, as ``framefill parse --in`` writes them.
        least: probability that a frame must have.
        where: file that the rows were read from.

    Raises:
        CorpusError: a column is missing, or a frame is none.
    """
    examples = []
    for number, row in enumerate(rows, start=1):
        place = f"{where}, row {number}"
        if missing := [name for name in (*COLUMNS, *PARSED) if name not in row]:
            raise CorpusError(
                "E224",
                f"the table has no column {missing[0]!r}.",
                where=place,
                remedy="Make it by `framefill data variants`, then `framefill parse --in variants.csv --out frames.csv`.",
            )
        try:
            probability = float(row["probability"] or 0)
        except (TypeError, ValueError) as error:
            raise CorpusError(
                "E225", f"the probability is {row['probability']!r}.", where=place, remedy="Parse the table again."
            ) from error
        if not isinstance(row["frame"] or "", str) or not all(isinstance(row[name], str) for name in COLUMNS):
            raise CorpusError(
                "E229",
                "domain, utterance and frame must be text.",
                where=place,
                remedy="Parse the table again.",
            )
        if not row["frame"] or not probability >= least:
            continue
        try:
            frame = Frame.parse(row["frame"], row["utterance"], place)
        except FrameError as error:
            if error.code == AMBIGUOUS:  # a file could not tell which place is meant
                continue
            raise
        examples.append(Example(row["domain"], row["utterance"], frame, place))
    return examples


def write_taught(root: Path, split: str, added: Sequence[Example], least: float, out: Path) -> dict[str, int]:
    """Writes a corpus whose training split has taught rows behind its own; the splits that select come along.

    Args:
        root: of the corpus that the variants were made of.
        split: the training split, ``train`` or one like ``train_25spis``.
        added: as :func:`taught` gives them.
        least: probability that was asked for, for the manifest.
        out: folder to write, whole or not at all.

    Returns:
        Rows of each split.

    Raises:
        CorpusError: a split is missing or damaged.
        UsageError: ``split`` is not one to train on, there is nothing to add, or ``out`` holds anything that this program did
            not write.
    """
    if not split.startswith("train"):
        raise UsageError("E583", f"{split} is no training split.", remedy="Name train or one like train_25spis.")
    if not added:
        raise UsageError(
            "E468",
            f"no frame has a probability of {least}.",
            remedy="Calibrate the teacher's bundle, or lower --least.",
        )
    own = read_split(root, split)
    if unknown := {row.domain for row in added} - {row.domain for row in own}:
        raise CorpusError(
            "E226", f"the corpus has no domain {min(unknown)!r}.", remedy="Name the corpus of the variants."
        )
    splits = {split: [*own, *added]}
    if split.endswith("spis"):
        selecting = split.replace("train", "valid", 1)
        splits[selecting] = read_split(root, selecting)
    splits["eval"] = read_split(root, "eval")
    about = {
        "corpus": "TOPv2 and rows with the frames of a parser",
        "checksum": corpus_checksum(root, split),
        "taught": len(added),
        "least_probability": least,
    }
    return write_corpus(out, splits, about)
