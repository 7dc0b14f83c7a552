"""Rows that contradict each other: the same utterance with different frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from data.topv2.reader import Example


def contradictory(examples: Iterable[Example]) -> list[list[Example]]:
    """Groups of rows that have domain and utterance in common, but not all of them the decoupled frame.

    Case and whitespace play no part, for most parsers do not see them. At most one frame of a group can be learned.
    """
    rows: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        rows[example.domain, _folded(example.utterance)].append(example)
    several = (group for group in rows.values() if len(group) > 1)
    return [group for group in several if len({_folded(str(row.frame.decoupled())) for row in group}) > 1]


def counted(groups: Sequence[Sequence[Example]]) -> str:
    """The number of groups in words: ``2 utterances (5 rows)``."""
    return f"{len(groups):,} utterance{'' if len(groups) == 1 else 's'} ({sum(map(len, groups)):,} rows)"


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
