"""Frames for people: an indented tree for terminals, an SVG for notebooks and reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape

from frames.nodes import Intent, Node, Span, bracketed, brackets, decouple, hulls, kind

#: Longest text drawn for one leaf, in characters.
LEAF = 28
_WIDTH, _LEVEL, _GAP, _MARGIN = 7.2, 62, 18, 14
_COLOURS = {"intent": ("#e8eefc", "#2f55c8"), "slot": ("#e6f5ec", "#1d7a46"), "wrong": ("#fdeaea", "#c02626")}


def tree(root: Intent, utterance: str) -> str:
    """The tree over an utterance, indented, one node a line, slot text quoted."""
    return "\n".join(_lines(utterance, root, "", ""))


def _lines(utterance: str, node: Node, lead: str, below: str) -> Iterator[str]:
    nodes = [child for child in node.children if not isinstance(child, Span)]
    texts = [utterance[child.start : child.end] for child in node.children if isinstance(child, Span)]
    words = (
        f" {' … '.join(repr(' '.join(text.split())) for text in texts)}"
        if texts and not isinstance(node, Intent)
        else ""
    )
    yield f"{lead}{kind(node)}:{node.label}{words}"
    for i, child in enumerate(nodes):
        last = i == len(nodes) - 1
        yield from _lines(utterance, child, below + ("└── " if last else "├── "), below + ("    " if last else "│   "))


@dataclass
class _Box:
    """A labelled rectangle of the drawing, with the boxes below it; ``left`` and ``width`` in pixels."""

    label: str
    colour: str | None
    children: list[_Box] = field(default_factory=list)
    left: float = 0.0
    width: float = 0.0


def svg(root: Intent, utterance: str, wrong: frozenset[tuple[str, int, int]] | None = None) -> str:
    """A self-contained SVG of the tree, leaves at the bottom of their branches.

    Args:
        root: the tree to draw.
        utterance: what its spans are of.
        wrong: labelled brackets (:func:`frames.nodes.brackets`) to mark in red.
    """
    extents = {id(node): (start, end) for node, start, end in hulls(root)}
    box = _box(utterance, root, extents, wrong or frozenset())
    _place(box, _MARGIN)
    width, height = box.width + 2 * _MARGIN, _height(box) * _LEVEL + _MARGIN
    drawn = "".join(_draw(box, 0))
    title = escape(" ".join(bracketed(decouple(root), utterance)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12">'
        f"<title>{title}</title>"
        f'<rect width="100%" height="100%" rx="8" fill="#ffffff"/>{drawn}</svg>'
    )


def html(root: Intent, utterance: str) -> str:
    """The SVG in a container that scrolls, with the utterance above it."""
    return (
        f'<figure style="margin:0 0 1em 0;overflow-x:auto"><figcaption dir="auto" style="margin-bottom:4px">'
        f"{escape(_short(utterance, 200))}</figcaption>{svg(root, utterance)}</figure>"
    )


def diff_html(gold: Intent, predicted: Intent | None, utterance: str) -> str:
    """Gold and predicted tree, decoupled, one above the other; nodes that the other does not have are red."""
    gold = decouple(gold)
    expected = brackets(gold)
    found = brackets(decouple(predicted)) if predicted is not None else expected - expected
    parts = [f"<div><small>gold</small><br>{svg(gold, utterance, frozenset(expected - found))}</div>"]
    if predicted is None:
        parts.append("<div><small>predicted</small><br><em>no well-formed frame</em></div>")
    else:
        drawn = svg(decouple(predicted), utterance, frozenset(found - expected))
        parts.append(f"<div><small>predicted</small><br>{drawn}</div>")
    caption = escape(_short(utterance, 200))
    return f'<figure style="margin:0 0 1.5em 0;overflow-x:auto"><figcaption dir="auto">{caption}</figcaption>{"".join(parts)}</figure>'


def _short(text: str, limit: int = LEAF) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _box(
    utterance: str, node: Node, extents: dict[int, tuple[int, int]], wrong: frozenset[tuple[str, int, int]]
) -> _Box:
    label = f"{kind(node)}:{node.label}"
    colour = "wrong" if (label, *extents[id(node)]) in wrong else ("intent" if isinstance(node, Intent) else "slot")
    children = [
        _Box(_short(utterance[child.start : child.end]), None)
        if isinstance(child, Span)
        else _box(utterance, child, extents, wrong)
        for child in node.children
    ]
    return _Box(label, colour, children)


def _place(box: _Box, left: float) -> None:
    own = len(box.label) * _WIDTH + 16
    cursor = left
    for child in box.children:
        _place(child, cursor)
        cursor += child.width + _GAP
    below = cursor - _GAP - left if box.children else 0.0
    box.left, box.width = left, max(own, below)
    if own > below:
        for child in box.children:
            _shift(child, (own - below) / 2)


def _shift(box: _Box, by: float) -> None:
    box.left += by
    for child in box.children:
        _shift(child, by)


def _height(box: _Box) -> int:
    return 1 + max((_height(child) for child in box.children), default=0)


def _draw(box: _Box, level: int) -> Iterator[str]:
    middle, top = box.left + box.width / 2, level * _LEVEL + _MARGIN
    for child in box.children:
        yield (
            f'<path d="M{middle:.1f} {top + 26:.1f} C{middle:.1f} {top + 46:.1f} {child.left + child.width / 2:.1f} '
            f'{top + 42:.1f} {child.left + child.width / 2:.1f} {top + _LEVEL:.1f}" fill="none" stroke="#9aa3b2"/>'
        )
        yield from _draw(child, level + 1)
    if box.colour is None:
        yield f'<text x="{middle:.1f}" y="{top + 17:.1f}" text-anchor="middle" fill="#333333">{escape(box.label)}</text>'
        return
    fill, ink = _COLOURS[box.colour]
    own = len(box.label) * _WIDTH + 12
    yield (
        f'<rect x="{middle - own / 2:.1f}" y="{top:.1f}" width="{own:.1f}" height="26" rx="6" fill="{fill}" stroke="{ink}"/>'
        f'<text x="{middle:.1f}" y="{top + 17:.1f}" text-anchor="middle" fill="{ink}">{escape(box.label)}</text>'
    )
