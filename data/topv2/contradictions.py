"""Rows that contradict each other: the same utterance with different frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from data.topv2.reader import Example
from frames.frame import Frame


def contradictory(examples: Sequence[Example]) -> list[tuple[str, str]]:
    """(domain, utterance) pairs that have different decoupled frames in different rows."""
    frames: dict[tuple[str, str], set[Frame]] = defaultdict(set)
    for example in examples:
        frames[example.domain, example.utterance].add(example.frame.decoupled())
    return [key for key, several in frames.items() if len(several) > 1]
