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

from frames.alignment import in_order, unique
from frames.errors import FrameError
from frames.nodes import Intent, Node, Slot, Span, bracketed, decouple, hulls, moved, spans, template, unescaped, walk

_LABEL = re.compile(r"\w[\w.-]*")
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
                    remedy="Give character offsets, the end being the first one after the span.",
                )
            if span.start < end:
                raise FrameError(
                    "E102",
                    f"span {span.start}:{span.end} starts before the previous leaf ended ({end}); leaves follow the utterance.",
                    remedy="Sort the leaves.",
                )
            end = span.end

    @classmethod
    def parse(cls, text: str, utterance: str | None = None, where: str = "", leftmost: bool = False) -> Frame:
        """Reads a bracketed string.

        Args:
            text: the bracketed frame, tokens separated by whitespace. Words that would read as brackets have a backslash
                before them, as :meth:`__str__` writes them.
            utterance: the raw utterance. It begins with the frame's words in order, whitespace apart; or the frame is
                decoupled, and the texts of its slots stand in the utterance in their order in one way only.
                Without one, the words of ``text`` joined by single spaces serve as the utterance.
            where: file and line for error messages.
            leftmost: take the leftmost places where a decoupled frame's slots may stand at several.

        Raises:
            FrameError: unbalanced brackets, a malformed label, a slot under a slot, an intent under an intent,
                text outside the root, words that the utterance does not have, or a decoupled frame whose slots' text it
                has at several places, unless ``leftmost``.
        """
        words: list[str] = []
        stack: list[tuple[str, str, list[Any]]] = []
        root: Intent | None = None
        position = -1  # the space before the first word
        for token in text.split():
            if token.startswith(("[IN:", "[SL:")):
                kind, label = token[1:3], token[4:]
                _check_label(label, where)
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
                if stack:
                    _check_below(stack[-1][:2], (kind, label), where)
                _check_nesting(len(stack), where)
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
                        remedy="A frame starts with [IN: and ends with its bracket; a bracket of the utterance is written \\\\].",
                    )
                word = unescaped(token)
                start, position = position + 1, position + 1 + len(word)
                words.append(word)
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
        read = " ".join(words)
        return cls(root, read) if utterance is None else cls(_over(root, read, utterance, where, leftmost), utterance)

    def __str__(self) -> str:
        """The bracketed string, the inverse of :meth:`parse` up to the whitespace between words; see there for escapes."""
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
            FrameError: the value has not that shape, or holds what :meth:`parse` refuses: a malformed label, a slot under a
                slot, an intent under an intent, spans that are not in the utterance or not in its order.
        """
        try:
            root, utterance = _from_dict(value["frame"]), value["utterance"]
            if not isinstance(root, Intent):
                raise TypeError("the root is not an intent")
            if not isinstance(utterance, str):
                raise TypeError("the utterance is no text")
            return cls(root, utterance)
        except (KeyError, TypeError) as error:
            raise FrameError(
                "E111", f"not a frame written by to_dict ({error}).", remedy="Give what Frame.to_dict wrote."
            ) from error

    def tree(self) -> str:
        """The frame as an indented tree, one node a line."""
        from frames import render  # drawing is a matter of few who hold frames

        return render.tree(self.root, self.utterance)

    def diff_html(self, predicted: Frame | None) -> str:
        """This gold frame and a predicted one, drawn one above the other; nodes that the other lacks are red."""
        from frames import render

        return render.diff_html(self.root, predicted.root if predicted is not None else None, self.utterance)

    def _repr_html_(self) -> str:
        """The frame as an SVG tree, for notebooks."""
        from frames import render

        return render.html(self.root, self.utterance)


def _over(root: Intent, words: str, utterance: str, where: str, leftmost: bool) -> Intent:
    """A tree over its own words, over the utterance that holds them."""
    leaves = [words[span.start : span.end] for span in spans(root)]
    if decouple(root) != root or "".join(words.split()) == "".join(utterance.split()):
        try:
            return moved(root, iter(in_order(leaves, utterance)))
        except FrameError as error:
            raise error.at(where) from None
    found, doubtful = unique(leaves, utterance)
    if found is None:
        raise FrameError(
            "E116",
            f"the utterance does not hold {', then '.join(map(repr, leaves))}.",
            where=where,
            remedy="The words of the frame must be those of the utterance, in order; whitespace may differ.",
        )
    if doubtful is not None and not leftmost:
        raise FrameError(
            "E114",
            f"{leaves[doubtful]!r} stands more than once in the utterance, and the frame does not tell which is meant.",
            where=where,
            remedy="Write the frame with all words of the utterance, those that no slot holds as well.",
        )
    return moved(root, iter(found))


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


def _from_dict(value: dict[str, Any], above: tuple[str, str] | None = None, depth: int = 0) -> Any:
    """The node or span below a node of this kind and label, so many levels below the root."""
    if "start" in value:
        offsets = value["start"], value["end"]
        if not all(type(offset) is int for offset in offsets):
            raise TypeError(f"offsets {offsets}")
        return Span(*offsets)
    kind, label = ("IN", value["intent"]) if "intent" in value else ("SL", value["slot"])
    _check_label(label)
    if above is not None:
        _check_below(above, (kind, label))
    _check_nesting(depth)
    children = tuple(_from_dict(child, (kind, label), depth + 1) for child in value["children"])
    return Intent(label, children) if kind == "IN" else Slot(label, children)


def _check_label(label: str, where: str = "") -> None:
    if not _LABEL.fullmatch(label):
        raise FrameError(
            "E103",
            f"label {label!r} is not letters, digits, underscores, hyphens and dots.",
            where=where,
            remedy="Write labels as [IN:CREATE_ALARM.",
        )


def _check_below(above: tuple[str, str], below: tuple[str, str], where: str = "") -> None:
    """Whether a node may be a child of another, each given by kind and label."""
    if above[0] == below[0]:
        name = "a slot under a slot" if below[0] == "SL" else "an intent under an intent"
        raise FrameError(
            "E106", f"{name} ({above[1]} > {below[1]}).", where=where, remedy="Intents and slots alternate."
        )


def _check_nesting(depth: int, where: str = "") -> None:
    """Whether a node may have so many others above it."""
    if depth >= MAX_NESTING:
        raise FrameError(
            "E107", f"more than {MAX_NESTING} levels of brackets.", where=where, remedy="Check the brackets."
        )
