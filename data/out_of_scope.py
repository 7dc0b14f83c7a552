"""Utterances that no domain of TOPv2 covers, written for this project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from frames.errors import CorpusError

#: The utterances that come with framefill: greetings, thanks, questions about facts, smart home, bookings, noise and so on.
INCLUDED = Path(__file__).with_suffix(".tsv")


@dataclass(frozen=True)
class OutOfScope:
    """One utterance and the kind of utterances that it stands for."""

    category: str
    utterance: str


def read_out_of_scope(path: Path | str = INCLUDED) -> list[OutOfScope]:
    """Reads a file with the columns ``category`` and ``utterance``.

    Raises:
        CorpusError: the file cannot be read, has other columns, or has fewer than two utterances.
    """
    from data.topv2.reader import read_lines

    header, *lines = read_lines(path)
    rows = [line.split("\t") for line in lines]
    if header.split("\t") != ["category", "utterance"] or any(len(row) != 2 or not row[1].strip() for row in rows):
        raise CorpusError(
            "E214",
            "the columns are not `category` and `utterance`.",
            where=str(path),
            remedy="Write a line of these two names, then one utterance a line, with a tab between the columns.",
        )
    if len(rows) < 2:
        raise CorpusError(
            "E227",
            f"{len(rows)} utterance(s) out of scope are too few: every other one is fitted on, the rest reported on.",
            where=str(path),
            remedy="Write two at least, better a hundred.",
        )
    return [OutOfScope(*row) for row in rows]
