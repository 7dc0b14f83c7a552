"""More training rows out of the rows that are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.topv2.frame import Frame, Intent, Node, Slot, Span
from data.topv2.reader import Example

#: Probability with which a slot of a variant is refilled.
REFILLED = 0.5
#: Changes tried for each recombined row that is wanted.
TRIES = 16


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
    made = []
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
        made.append(variants)
    return made


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

    root = _moved(frame.root, moved.__getitem__)
    assert isinstance(root, Intent)
    return Frame(root, utterance + frame.utterance[end:])


def _moved(node: Node, move: Callable[[Span], Span]) -> Node:
    """The node with other spans."""
    children = tuple(move(child) if isinstance(child, Span) else _moved(child, move) for child in node.children)
    return type(node)(node.label, children)  # type: ignore[arg-type]


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


def recombine(examples: Sequence[Example], known: Iterable[Frame], copies: int, seed: int) -> list[list[Example]]:
    """Rows with scenarios that no row has: one slot of a row left out, added from another row, or exchanged for one.

    Data recombination (Jia and Liang 2016) that a bank guides: only what makes a scenario that is known to occur is kept.
    Frames with a slot that holds no words, or several stretches of them, play no part.

    Args:
        examples: training rows.
        known: frames whose scenarios are known to occur; nothing else of them is looked at.
        copies: recombined rows made of each row, at most.
        seed: of the draws.

    Returns:
        For each row those made from it, with decoupled frames.
    """
    rng = np.random.default_rng(seed)
    plain = [example for example in examples if _plain(example.frame)]
    wanted = {frame.scenario() for frame in known if _plain(frame)}
    wanted -= {example.frame.scenario() for example in plain}
    donors: dict[tuple[str, str], list[_Part]] = defaultdict(list)
    for example in plain:
        for intent in example.frame.intents():
            donors[example.domain, intent.label] += _parts(example.frame, intent)
    made = []
    for example in examples:
        intents = list(example.frame.intents()) if _plain(example.frame) else []
        found: dict[str, Example] = {}
        for _ in range(TRIES * copies if intents else 0):
            intent = intents[rng.integers(len(intents))]
            parts = donors[example.domain, intent.label]
            if len(found) == copies or not parts:
                break
            # Each slot is as likely to be left out or exchanged as a new one is to be put before it.
            count = len(_parts(example.frame, intent))
            place, removed = divmod(int(rng.integers(2 * count + 1)), 2)
            part = None if removed and rng.random() < 0.5 else parts[rng.integers(len(parts))]
            frame = _changed(example.frame, intent, place, bool(removed), part)
            if frame.scenario() in wanted:
                found.setdefault(frame.utterance, replace(example, utterance=frame.utterance, frame=frame))
        made.append(list(found.values()))
    return made


@dataclass(frozen=True)
class _Part:
    """A slot of a row.

    Attributes:
        slot: decoupled.
        start: first character, of words that no slot owns perhaps.
        end: the one after the last.
        words: all of its words.
    """

    slot: Slot
    start: int
    end: int
    words: str

    def at(self, start: int) -> Node:
        """The slot where its words start at another character."""
        return _moved(self.slot, lambda span: Span(span.start - self.start + start, span.end - self.start + start))


def _parts(frame: Frame, intent: Intent) -> list[_Part]:
    """The slots of one of a frame's intents."""
    parts = []
    for slot in intent.children:
        if isinstance(slot, Slot):
            spans = list(_spans(slot))
            start, end = spans[0].start, spans[-1].end
            (alone,) = Frame(Intent("", (slot,)), frame.utterance).decoupled().root.children
            assert isinstance(alone, Slot)
            parts.append(_Part(alone, start, end, frame.utterance[start:end]))
    return parts


def _plain(frame: Frame) -> bool:
    """Whether every slot holds one stretch of words, or intents that have some: then scenarios tell shapes apart."""
    return all(
        [type(child) for child in slot.children] == [Span]
        or (all(isinstance(child, Intent) for child in slot.children) and any(_spans(slot)))
        for slot in frame.slots()
    )


def _spans(node: Node) -> Iterator[Span]:
    for child in node.children:
        yield from (child,) if isinstance(child, Span) else _spans(child)


def _changed(frame: Frame, intent: Intent, place: int, removed: bool, part: _Part | None) -> Frame:
    """The decoupled frame with another slot, or none, at a place among the slots of an intent.

    Args:
        frame: with the words that no slot owns.
        intent: one of its intents.
        place: of a slot, or of the one that will stand behind the new one.
        removed: whether the slot at the place is taken out.
        part: the new slot.
    """
    text, slots = frame.utterance, _parts(frame, intent)
    if removed:
        start, end = slots[place].start, slots[place].end
    elif place:
        start = end = slots[place - 1].end
    elif slots or intent is not frame.root:
        start = end = 0 if intent is frame.root else next(_spans(intent)).start
    else:
        start = end = len(text.rstrip(" .?!"))
    before, after = text[:start].rstrip(), text[end:].lstrip()
    words = "" if part is None else part.words
    utterance = before + (" " if before and words else "") + words
    first = len(utterance) - len(words)
    utterance += (" " if utterance and (text[end:][:1].isspace() or after[:1].isalnum()) else "") + after
    behind = len(utterance) - len(text)

    def rebuilt(node: Node) -> Node:
        children: list[Span | Node] = []
        for child in node.children:
            if isinstance(child, Span):
                by = 0 if child.end <= start else behind
                children += [Span(child.start + by, child.end + by)] if isinstance(node, Slot) else []
            else:
                children.append(rebuilt(child))
        if node is intent:
            children[place : place + removed] = [] if part is None else [part.at(first)]
        return type(node)(node.label, tuple(children))  # type: ignore[arg-type]

    root = rebuilt(frame.root)
    assert isinstance(root, Intent)
    return Frame(root, utterance)
