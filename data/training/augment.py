"""Augmentation: more training rows out of the rows that there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from data.topv2.reader import Example
from frames.frame import Frame
from frames.nodes import Intent, Node, Slot, Span

#: Probability with which a slot of a variant is refilled.
REFILLED = 0.5


def swap_values(examples: Sequence[Example], copies: int, seed: int) -> list[list[Example]]:
    """Variants of each row, whose slots hold the text of other rows' slots of the same label and domain.

    Each slot is refilled with probability :data:`REFILLED`, and one at least.

    Args:
        examples: training rows.
        copies: variants drawn for each row; one that reads as the row itself is dropped, so a row without a slot
            that can be filled otherwise has none.
        seed: of the draws.

    Returns:
        The variants of each row, their scenarios those of the row.
    """
    rng = np.random.default_rng(seed)
    values: dict[tuple[str, str], list[str]] = defaultdict(list)
    for example in examples:
        for label, span in _fillable(example.frame):
            values[example.domain, label].append(example.utterance[span.start : span.end])
    augmented = []
    for example in examples:
        slots = list(_fillable(example.frame))
        variants = []
        for _ in range(copies if slots else 0):
            chosen = rng.random(len(slots)) < REFILLED
            chosen[rng.integers(len(slots))] = True
            texts = {}
            for (label, span), refilled in zip(slots, chosen, strict=True):
                if refilled:
                    others = values[example.domain, label]
                    texts[span] = others[rng.integers(len(others))]
            frame = with_texts(example.frame, texts)
            if frame.utterance != example.utterance:
                variants.append(replace(example, utterance=frame.utterance, frame=frame))
        augmented.append(variants)
    return augmented


def with_texts(frame: Frame, texts: dict[Span, str]) -> Frame:
    """The frame over an utterance in which some leaves read otherwise.

    Args:
        frame: full or decoupled.
        texts: new text of leaves of ``frame``.
    """
    utterance, end = "", 0
    moved: dict[Span, Span] = {}
    for span in frame.spans():
        utterance += frame.utterance[end : span.start]
        text = texts.get(span, frame.utterance[span.start : span.end])
        moved[span] = Span(len(utterance), len(utterance) + len(text))
        utterance += text
        end = span.end

    def rebuilt(node: Node) -> Node:
        children = tuple(moved[child] if isinstance(child, Span) else rebuilt(child) for child in node.children)
        return type(node)(node.label, children)  # type: ignore[arg-type]

    root = rebuilt(frame.root)
    assert isinstance(root, Intent)
    return Frame(root, utterance + frame.utterance[end:])


def _fillable(frame: Frame) -> Iterator[tuple[str, Span]]:
    """Slots of one leaf that stands apart from the words beside it, so that no new text can run into them."""
    text = frame.utterance

    def walk(node: Node) -> Iterator[tuple[str, Span]]:
        for child in node.children:
            if isinstance(child, Span):
                apart = not (text[: child.start][-1:].isalnum() or text[child.end :][:1].isalnum())
                if isinstance(node, Slot) and len(node.children) == 1 and apart:
                    yield node.label, child
            else:
                yield from walk(child)

    return walk(frame.root)
