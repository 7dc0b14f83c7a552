"""Low-resource samples: at least N rows for every intent and slot (SPIS; Chen et al. 2020, section 4)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from data.topv2.reader import Example
from frames.frame import Frame


def labels(frame: Frame) -> Counter[str]:
    """Intents and slots of a frame with the number of times each occurs in it."""
    intents = Counter(f"IN:{node.label}" for node in frame.intents())
    return intents + Counter(f"SL:{node.label}" for node in frame.slots())


def sample(examples: Sequence[Example], spis: int, seed: int = 0) -> list[Example]:
    """Draws rows until every intent and slot has at least ``spis`` of them, or all there are.

    Rows come in random order; one is taken when any label in it is still short of ``spis``, and counts once for
    each time a label occurs in it. All fourteen official training samples are consistent with this rule in the
    order of their files, and those drawn here have their sizes within a few percent.

    Args:
        examples: rows to draw from, usually one domain's training split.
        spis: samples per intent and slot.
        seed: of the order.

    Returns:
        The rows taken, in the order drawn.

    Raises:
        ValueError: ``spis`` is below 1.
    """
    if spis < 1:
        raise ValueError(f"spis {spis} must be at least 1")
    counts: Counter[str] = Counter()
    taken = []
    for i in random.Random(seed).sample(range(len(examples)), len(examples)):
        found = labels(examples[i].frame)
        if any(counts[label] < spis for label in found):
            taken.append(examples[i])
            counts.update(found)
    return taken
