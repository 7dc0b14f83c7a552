"""Where the leaves of a frame stand in its utterance.

A decoupled frame has lost the words that no slot owns, and with them the offsets. Its leaves follow one another in the
utterance, so each may stand between the leftmost and the rightmost place that leave room for the others; where the two
are the same for every leaf, the words alone tell where the frame stands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from frames.errors import FrameError
from frames.nodes import Span


def in_order(leaves: Sequence[str], utterance: str) -> list[Span]:
    """The place of each leaf where the leaves hold all words from the beginning of the utterance.

    Args:
        leaves: text of each leaf in order; whitespace does not matter.
        utterance: the raw utterance.

    Raises:
        FrameError: a word is not what the utterance has after the word before it.
    """
    placed = []
    position = 0
    for leaf in leaves:
        start = -1
        for word in leaf.split():
            while position < len(utterance) and utterance[position].isspace():
                position += 1
            end = _word_end(utterance, position, word)
            if end < 0:
                raise FrameError(
                    "E112",
                    f"word {word!r} is not what the utterance has there ({utterance[position : position + 20]!r}).",
                    remedy="The words of the frame must be those of the utterance, in order; whitespace may differ.",
                )
            start, position = position if start < 0 else start, end
        placed.append(Span(start, position))
    return placed


def _word_end(utterance: str, start: int, word: str) -> int:
    """End of a word in the utterance when read from ``start`` with whitespace passed over, -1 if it differs."""
    if utterance.startswith(word, start):
        return start + len(word)
    position = start
    for character in word:
        while position < len(utterance) and utterance[position].isspace():
            position += 1
        if position >= len(utterance) or utterance[position] != character:
            return -1
        position += 1
    return position


def leftmost(leaves: Sequence[str], utterance: str) -> list[Span] | None:
    """The leftmost place of each leaf after the one before it, None where the utterance does not hold them so.

    Places that begin and end with whole words and numbers are preferred to parts of them: the ``5`` of ``15 or 5`` is
    the second.

    Args:
        leaves: text of each leaf in order; whitespace does not matter.
        utterance: the raw utterance.
    """
    for whole in (True, False):
        placed = _chain([_places(leaf, utterance, whole) for leaf in leaves])
        if placed is not None:
            return placed
    return None


def unique(leaves: Sequence[str], utterance: str) -> tuple[list[Span] | None, int | None]:
    """As :func:`leftmost`, and the first leaf that might as well stand elsewhere, None where no leaf might."""
    for whole in (True, False):
        places = [_places(leaf, utterance, whole) for leaf in leaves]
        first, last = _chain(places), _rightmost(places)
        if first is not None and last is not None:
            differ = (i for i, (left, right) in enumerate(zip(first, last, strict=True)) if left != right)
            return first, next(differ, None)
    return None, None


def _places(leaf: str, utterance: str, whole: bool) -> list[Span]:
    """Everywhere that the utterance holds the characters of a leaf, whitespace apart."""
    body = r"\s*".join(re.escape(character) for character in "".join(leaf.split()))
    found = [Span(*match.span(1)) for match in re.finditer(rf"(?=({body}))", utterance)]
    if not whole:
        return found
    return [span for span in found if _edge(utterance, span.start) and _edge(utterance, span.end)]


def _edge(utterance: str, at: int) -> bool:
    """Whether a word or number may begin or end here, as :data:`frames.tokenization.ATOM` cuts them, clitics apart."""
    if not 0 < at < len(utterance):
        return True
    before, after = (unicodedata.category(character)[0].replace("M", "L") for character in utterance[at - 1 : at + 1])
    return before != after or before not in "LN"


def _chain(places: Sequence[Sequence[Span]]) -> list[Span] | None:
    chosen: list[Span] = []
    end = 0
    for spans in places:
        span = next((span for span in spans if span.start >= end), None)
        if span is None:
            return None
        chosen.append(span)
        end = span.end
    return chosen


def _rightmost(places: Sequence[Sequence[Span]]) -> list[Span] | None:
    chosen: list[Span] = []
    begin: float = float("inf")
    for spans in reversed(places):
        span = next((span for span in reversed(spans) if span.end <= begin), None)
        if span is None:
            return None
        chosen.append(span)
        begin = span.start
    return chosen[::-1]
