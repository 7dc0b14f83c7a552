"""Frames: immutable trees of intents and slots over character spans of a raw utterance.

The tree of TOP and TOPv2 (Gupta et al. 2018; Chen et al. 2020), written
``[IN:CREATE_ALARM Set an alarm [SL:DATE_TIME for 8 am ] ]``. Leaves are character offsets into the raw
utterance, never tokens: the official parses separate tokens by spaces that the utterance does not have in
44% of the rows, so offsets are the only form in which a gold and a predicted frame can be compared safely.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from frames import render
from frames.errors import FrameError
from frames.nodes import Intent, Node, Slot, Span, bracketed, decouple, hulls, spans, template, walk

_LABEL = re.compile(r"[A-Z0-9_]+")
#: Deeper trees than this are refused rather than risk the interpreter's recursion limit (TOPv2: at most 10 levels).
MAX_NESTING = 100


@dataclass(frozen=True, slots=True)
class Frame:
    """A tree rooted in an intent, over one raw utterance.

    Raises:
        FrameError: a span lies outside the utterance, is empty, or leaves are not in the utterance's order.
    """

    root: Intent
    utterance: str

    def __post_init__(self) -> None:
        end = 0
        for span in self.spans():
            if not (0 <= span.start < span.end <= len(self.utterance)):
                raise FrameError(
                    "E101",
                    f"span {span.start}:{span.end} is empty or outside the utterance of {len(self.utterance)} characters.",
                )
            if span.start < end:
                raise FrameError(
                    "E102",
                    f"span {span.start}:{span.end} starts before the previous leaf ended ({end}); leaves follow the utterance.",
                )
            end = span.end

    @classmethod
    def parse(cls, text: str, utterance: str | None = None, where: str = "") -> Frame:
        """Reads a bracketed string.

        Args:
            text: the bracketed frame, tokens separated by whitespace.
            utterance: the raw utterance. The frame's words must be found in it in order, whitespace apart.
                Without one, the words of ``text`` joined by single spaces serve as the utterance.
            where: file and line for error messages.

        Raises:
            FrameError: unbalanced brackets, a malformed label, a slot under a slot, an intent under an intent,
                text outside the root, or words that the utterance does not have.
        """
        words: list[str] = []
        stack: list[tuple[str, str, list[Any]]] = []
        root: Intent | None = None
        position = 0
        free = utterance is None
        for token in text.split():
            if token.startswith(("[IN:", "[SL:")):
                kind, label = token[1:3], token[4:]
                if not _LABEL.fullmatch(label):
                    raise FrameError(
                        "E103",
                        f"label {label!r} is not upper-case letters, digits and underscores.",
                        where=where,
                        remedy="Write labels as [IN:CREATE_ALARM.",
                    )
                if root is not None:
                    raise FrameError(
                        "E104",
                        f"{token!r} follows the end of the frame.",
                        where=where,
                        remedy="A row holds exactly one frame.",
                    )
                if not stack and kind == "SL":
                    raise FrameError(
                        "E105",
                        f"the frame starts with slot {label}.",
                        where=where,
                        remedy="The root of a frame is an intent.",
                    )
                if stack and stack[-1][0] == kind:
                    name = "a slot under a slot" if kind == "SL" else "an intent under an intent"
                    raise FrameError(
                        "E106",
                        f"{name} ({stack[-1][1]} > {label}).",
                        where=where,
                        remedy="Intents and slots alternate.",
                    )
                if len(stack) >= MAX_NESTING:
                    raise FrameError("E107", f"more than {MAX_NESTING} levels of brackets.", where=where)
                stack.append((kind, label, []))
            elif token == "]":
                if not stack:
                    raise FrameError(
                        "E108", "a closing bracket without an opening one.", where=where, remedy="Balance the brackets."
                    )
                kind, label, children = stack.pop()
                node: Node = Intent(label, tuple(children)) if kind == "IN" else Slot(label, tuple(children))
                if stack:
                    stack[-1][2].append(node)
                else:
                    assert isinstance(node, Intent)
                    root = node
            else:
                if not stack:
                    raise FrameError(
                        "E109",
                        f"text {token!r} outside of the frame.",
                        where=where,
                        remedy="A frame starts with [IN: and ends with its bracket.",
                    )
                if free:
                    start = position + (1 if words else 0)
                    words.append(token)
                else:
                    assert utterance is not None
                    start = _find(utterance, token, position, where)
                position = _token_end(utterance, start, token) if not free else start + len(token)
                siblings = stack[-1][2]
                if siblings and isinstance(siblings[-1], Span):
                    siblings[-1] = Span(siblings[-1].start, position)
                else:
                    siblings.append(Span(start, position))
        if stack:
            raise FrameError(
                "E115",
                f"{len(stack)} bracket(s) never closed, the innermost is {stack[-1][0]}:{stack[-1][1]}.",
                where=where,
                remedy="Balance the brackets.",
            )
        if root is None:
            raise FrameError("E110", "the frame is empty.", where=where, remedy="Write at least [IN:LABEL ].")
        return cls(root, " ".join(words) if utterance is None else utterance)

    def __str__(self) -> str:
        """The bracketed string, the inverse of :meth:`parse` up to the whitespace between words."""
        return " ".join(bracketed(self.root, self.utterance))

    def text(self, span: Span) -> str:
        """The characters of the utterance that ``span`` covers."""
        return self.utterance[span.start : span.end]

    def decoupled(self) -> Frame:
        """This frame without the text that no slot owns (Aghajanyan et al. 2020)."""
        return Frame(decouple(self.root), self.utterance)

    def scenario(self) -> str:
        """The frame's template: decoupled, leaf spans emptied, e.g. ``[IN:CREATE_ALARM [SL:DATE_TIME ] ]``."""
        return " ".join(template(self.root))

    @property
    def depth(self) -> int:
        """Intents on the longest path from the root to a leaf; a flat frame has depth 1."""
        return _depth(self.root)

    def intents(self) -> Iterator[Intent]:
        """Intents in pre-order."""
        return (node for node in walk(self.root) if isinstance(node, Intent))

    def slots(self) -> Iterator[Slot]:
        """Slots in pre-order."""
        return (node for node in walk(self.root) if isinstance(node, Slot))

    def nodes(self) -> Iterator[tuple[Node, int, int]]:
        """Nodes in pre-order with the hull of the spans below each, ``(-1, -1)`` where there are none."""
        return hulls(self.root)

    def spans(self) -> Iterator[Span]:
        """Leaves, in the order of the utterance."""
        return spans(self.root)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; :meth:`from_dict` is its inverse."""
        return {"utterance": self.utterance, "frame": _to_dict(self.root, self.utterance)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Frame:
        """The frame that :meth:`to_dict` wrote.

        Raises:
            FrameError: the value has not that shape.
        """
        try:
            root = _from_dict(value["frame"])
            if not isinstance(root, Intent):
                raise TypeError("the root is not an intent")
            return cls(root, value["utterance"])
        except (KeyError, TypeError) as error:
            raise FrameError("E111", f"not a frame written by to_dict ({error}).") from error

    def tree(self) -> str:
        """The frame as an indented tree, one node a line."""
        return render.tree(self.root, self.utterance)

    def diff_html(self, predicted: Frame | None) -> str:
        """This gold frame and a predicted one, drawn one above the other; nodes that the other lacks are red."""
        return render.diff_html(self.root, predicted.root if predicted is not None else None, self.utterance)

    def _repr_html_(self) -> str:
        """The frame as an SVG tree, for notebooks."""
        return render.html(self.root, self.utterance)


def _find(utterance: str, token: str, position: int, where: str) -> int:
    """Start of ``token`` at or after ``position``, only whitespace being passed over."""
    while position < len(utterance) and utterance[position].isspace():
        position += 1
    if _token_end(utterance, position, token) < 0:
        rest = utterance[position : position + 20]
        raise FrameError(
            "E112",
            f"word {token!r} is not what the utterance has there ({rest!r}).",
            where=where,
            remedy="The words of the frame must be those of the utterance, in order; whitespace may differ.",
        )
    return position


def _token_end(utterance: str | None, start: int, token: str) -> int:
    """End of ``token`` in the utterance when read from ``start`` with whitespace passed over, -1 if it differs."""
    if utterance is None:
        return start + len(token)
    if utterance.startswith(token, start):
        return start + len(token)
    position = start
    for character in token:
        while position < len(utterance) and utterance[position].isspace():
            position += 1
        if position >= len(utterance) or utterance[position] != character:
            return -1
        position += 1
    return position


def _depth(node: Node) -> int:
    below = max((_depth(child) for child in node.children if not isinstance(child, Span)), default=0)
    return below + isinstance(node, Intent)


def _to_dict(node: Node, utterance: str) -> dict[str, Any]:
    children: list[dict[str, Any]] = []
    for child in node.children:
        if isinstance(child, Span):
            children.append({"start": child.start, "end": child.end, "text": utterance[child.start : child.end]})
        else:
            children.append(_to_dict(child, utterance))
    return {"intent" if isinstance(node, Intent) else "slot": node.label, "children": children}


def _from_dict(value: dict[str, Any]) -> Any:
    if "start" in value:
        return Span(int(value["start"]), int(value["end"]))
    children = tuple(_from_dict(child) for child in value["children"])
    return Intent(value["intent"], children) if "intent" in value else Slot(value["slot"], children)
