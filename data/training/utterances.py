"""Utterances near those of a corpus, without frames: for a parser that gives them frames of its own (ours).

As TinyBERT (Jiao et al. 2020, arXiv 1909.10351) a teacher reads words in each other's places. Here the corpus itself says
which words those are, so nothing else is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

#: Probability with which a word is exchanged.
EXCHANGED = 0.2
#: Stands before the first word and after the last.
EDGE = ""


def exchange_words(utterances: Sequence[str], copies: int, seed: int) -> list[str]:
    """Utterances in which some words are others that the corpus has between the same two words.

    Each word is exchanged with probability :data:`EXCHANGED`, from left to right, so that the next one is chosen beside it.

    Args:
        utterances: of one domain.
        copies: drawn for each.
        seed: of the draws.

    Returns:
        What differs from the utterance it was drawn from.
    """
    rng = np.random.default_rng(seed)
    rows = [utterance.split() for utterance in utterances]
    between: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for words in rows:
        for left, word, right in zip([EDGE, *words], words, [*words[1:], EDGE], strict=False):
            between[left, right][word] = None
    choices = {place: list(words) for place, words in between.items()}
    drawn = []
    for words in rows:
        for _ in range(copies):
            changed = [EDGE, *words, EDGE]
            for place in 1 + np.flatnonzero(rng.random(len(words)) < EXCHANGED):
                others = choices.get((changed[place - 1], changed[place + 1]))
                if others:
                    changed[place] = others[rng.integers(len(others))]
            if changed[1:-1] != words:
                drawn.append(" ".join(changed[1:-1]))
    return drawn


def join_halves(utterances: Sequence[str], copies: int, seed: int) -> list[str]:
    """Utterances that begin as one of the corpus and end as another that has the same two words somewhere.

    Args:
        utterances: of one domain.
        copies: drawn for each.
        seed: of the draws.

    Returns:
        What differs from the utterance it begins as.
    """
    rng = np.random.default_rng(seed)
    rows = [utterance.split() for utterance in utterances]
    places: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for row, words in enumerate(rows):
        for place, pair in enumerate(zip(words, words[1:], strict=False)):
            places[pair].append((row, place))
    drawn = []
    for words in rows:
        for _ in range(copies if len(words) > 1 else 0):
            place = int(rng.integers(len(words) - 1))
            others = places[words[place], words[place + 1]]
            other, from_there = others[rng.integers(len(others))]
            joined = words[:place] + rows[other][from_there:]
            if joined != words:
                drawn.append(" ".join(joined))
    return drawn
