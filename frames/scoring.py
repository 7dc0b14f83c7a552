"""Exact match and labelled brackets: a strict scorer, and one that agrees with the official TOP script.

The official script compares printed trees as strings. It has faults that matter when a parser can emit anything
(see :func:`official_exact_match`); the strict functions below compare frames.
"""

from __future__ import annotations

from collections import Counter

from frames.errors import FrameError
from frames.frame import Frame
from frames.nodes import Node, Span, brackets, decouple


def exact_match(gold: Frame, predicted: Frame | None, form: str = "decoupled", ordered: bool = True) -> bool:
    """Whether two frames are equal.

    Args:
        gold: the annotated frame.
        predicted: the parser's frame, None for none; it never matches.
        form: ``decoupled`` ignores text that no slot owns (span pointer and RAF papers), ``full`` does not (TOP).
        ordered: False compares the children of each node as multisets.
    """
    if form not in ("decoupled", "full"):
        raise ValueError(f"form {form!r}: 'decoupled' or 'full'")
    if predicted is None or predicted.utterance != gold.utterance:
        return False
    if form == "decoupled":
        gold, predicted = gold.decoupled(), predicted.decoupled()
    return gold == predicted or (not ordered and _sorted(gold.root) == _sorted(predicted.root))


def _sorted(node: Node) -> tuple:
    children = [(child.start, child.end) if isinstance(child, Span) else _sorted(child) for child in node.children]
    return (type(node).__name__, node.label, sorted(children, key=repr))


def labelled_brackets(gold: Frame, predicted: Frame | None) -> tuple[int, int, int]:
    """Matching, gold and predicted brackets of a pair of frames, decoupled, as in the TOP evaluation."""
    expected = brackets(decouple(gold.root))
    found = brackets(decouple(predicted.root)) if predicted is not None else Counter()
    return (expected & found).total(), expected.total(), found.total()


def validity(text: str, utterance: str | None = None) -> FrameError | None:
    """What is wrong with a bracketed string, None when it is a frame (of that utterance, if one is given)."""
    try:
        Frame.parse(text, utterance)
    except FrameError as error:
        return error
    return None


def official_exact_match(gold: str, predicted: str) -> bool:
    """Exact match as the official TOP script counts it, on bracketed strings.

    Printed trees are compared after whitespace is normalised: order, case and non-slot words count. Kept from
    that script: brackets after the root's own are dropped unseen, so an extra trailing ``]`` still matches, and
    an empty string equals an empty string. A label that is neither ``IN:`` nor ``SL:`` crashes the script; here
    it is no match.
    """
    try:
        return _official_tree(gold) == _official_tree(predicted)
    except FrameError:
        return False


def _official_tree(text: str) -> list[str]:
    """Tokens up to the close of the root."""
    kept: list[str] = []
    depth = 0
    for token in text.split():
        if token.startswith("["):
            if not token.startswith(("[IN:", "[SL:")):
                raise FrameError(
                    "E117",
                    f"label {token!r} is neither an intent nor a slot.",
                    remedy="Write labels as IN:CREATE_ALARM and SL:DATE_TIME.",
                )
            depth += 1
        elif token == "]":
            depth -= 1
            if depth < 0:
                continue
        kept.append(token)
    return kept
