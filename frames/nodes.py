"""The nodes of a frame: spans, slots and intents, and walks over them.

:class:`frames.frame.Frame` puts them over an utterance; :mod:`frames.render` draws them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar, Union


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``[start, end)`` of the raw utterance."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot; its children are spans of the utterance or nested intents. ``label`` has no ``SL:`` prefix."""

    label: str
    children: tuple[Union[Span, Intent], ...] = ()  # noqa: UP007 (a string union cannot name a later class)


@dataclass(frozen=True, slots=True)
class Intent:
    """An intent; its children are slots, and spans that no slot owns. ``label`` has no ``IN:`` prefix."""

    label: str
    children: tuple[Span | Slot, ...] = ()


Node = Intent | Slot
N = TypeVar("N", Intent, Slot)
#: A word that reads as a bracket, or would without the backslashes before it.
_BRACKET = re.compile(r"\\*(?:\]\Z|\[(?:IN|SL):)")


def walk(node: Node) -> Iterator[Node]:
    """The node and all nodes below it, in pre-order."""
    yield node
    for child in node.children:
        if not isinstance(child, Span):
            yield from walk(child)


def spans(node: Node) -> Iterator[Span]:
    """The spans below a node, in the order of the utterance."""
    for child in node.children:
        if isinstance(child, Span):
            yield child
        else:
            yield from spans(child)


def kind(node: Node) -> str:
    """``IN`` or ``SL``."""
    return "IN" if isinstance(node, Intent) else "SL"


def hulls(root: Node) -> Iterator[tuple[Node, int, int]]:
    """Nodes in pre-order with the hull of the spans below each, ``(-1, -1)`` where there are none."""
    for node in walk(root):
        below = list(spans(node))
        yield (node, below[0].start, below[-1].end) if below else (node, -1, -1)


def brackets(root: Node) -> Counter[tuple[str, int, int]]:
    """Labelled brackets: kind and label of every node with the hull of its spans, as a multiset."""
    return Counter((f"{kind(node)}:{node.label}", start, end) for node, start, end in hulls(root))


def decouple(intent: Intent) -> Intent:
    """The intent without the text that no slot owns (Aghajanyan et al. 2020)."""
    slots = (child for child in intent.children if isinstance(child, Slot))
    return Intent(
        intent.label,
        tuple(
            Slot(slot.label, tuple(decouple(c) if isinstance(c, Intent) else c for c in slot.children))
            for slot in slots
        ),
    )


def escaped(word: str) -> str:
    """A word of an utterance as it stands in a bracketed string: with a backslash where it would read as a bracket."""
    return f"\\{word}" if _BRACKET.match(word) else word


def unescaped(token: str) -> str:
    """The inverse of :func:`escaped`."""
    return token[1:] if token.startswith("\\") and _BRACKET.match(token) else token


def moved(node: N, places: Iterator[Span]) -> N:
    """The node with the next of ``places`` for each of its spans, in order."""
    children = tuple(next(places) if isinstance(child, Span) else moved(child, places) for child in node.children)
    return type(node)(node.label, children)  # type: ignore[arg-type]


def bracketed(node: Node, utterance: str) -> Iterator[str]:
    """Tokens of the bracketed string of a node over an utterance."""
    yield f"[{kind(node)}:{node.label}"
    for child in node.children:
        if isinstance(child, Span):
            yield from map(escaped, utterance[child.start : child.end].split())
        else:
            yield from bracketed(child, utterance)
    yield "]"


def template(node: Node) -> Iterator[str]:
    """Tokens of the bracketed string of a node without its text."""
    yield f"[{kind(node)}:{node.label}"
    for child in node.children:
        if not isinstance(child, Span):
            yield from template(child)
    yield "]"
