"""The ontology: which intents and slots there are, and which may nest in which, as seen in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from frames.errors import BundleError, FrameError
from frames.files import check_version, write_json
from frames.frame import Frame
from frames.nodes import Intent, Slot, Span

#: Format of the JSON file; a reader refuses a newer one.
VERSION = 1
#: The one token that closes an intent or a slot.
CLOSE = "]"


@dataclass(frozen=True)
class Ontology:
    """Labels and nesting, with the counts seen in training.

    Attributes:
        intent_slots: intent label -> slot label -> count of that slot under that intent.
        slot_intents: slot label -> intent label -> count of that intent nested in that slot.
        slot_spans: slot label -> count of that slot holding text.
        slot_empty: slot label -> count of that slot holding nothing.
        roots: intent label -> count as the root of a frame.
    """

    intent_slots: dict[str, dict[str, int]]
    slot_intents: dict[str, dict[str, int]]
    slot_spans: dict[str, int]
    slot_empty: dict[str, int]
    roots: dict[str, int]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {token: index for index, token in enumerate(self.tokens)})

    @classmethod
    def from_frames(cls, frames: Iterable[Frame]) -> Ontology:
        """Reads labels and nesting from training frames."""
        intents: dict[str, Counter[str]] = {}
        slots: dict[str, Counter[str]] = {}
        spans: Counter[str] = Counter()
        empty: Counter[str] = Counter()
        roots: Counter[str] = Counter()
        for frame in frames:
            roots[frame.root.label] += 1
            for intent in frame.intents():
                seen = intents.setdefault(intent.label, Counter())
                seen.update(child.label for child in intent.children if isinstance(child, Slot))
            for slot in frame.slots():
                nested = slots.setdefault(slot.label, Counter())
                nested.update(child.label for child in slot.children if isinstance(child, Intent))
                spans[slot.label] += any(isinstance(child, Span) for child in slot.children)
                empty[slot.label] += not slot.children
        return cls(
            {label: dict(sorted(intents[label].items())) for label in sorted(intents)},
            {label: dict(sorted(slots[label].items())) for label in sorted(slots)},
            dict(sorted(spans.items())),
            dict(sorted(empty.items())),
            dict(sorted(roots.items())),
        )

    def merged(self, other: Ontology) -> Ontology:
        """Labels and nesting of both, counts added."""

        def nested(a: dict[str, dict[str, int]], b: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
            return {label: added(a.get(label, {}), b.get(label, {})) for label in sorted({*a, *b})}

        def added(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
            return {label: a.get(label, 0) + b.get(label, 0) for label in sorted({*a, *b})}

        return Ontology(
            nested(self.intent_slots, other.intent_slots),
            nested(self.slot_intents, other.slot_intents),
            added(self.slot_spans, other.slot_spans),
            added(self.slot_empty, other.slot_empty),
            added(self.roots, other.roots),
        )

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The ontology tokens in the order of their ids: the closing bracket, ``IN:`` labels, ``SL:`` labels."""
        return (CLOSE, *(f"IN:{label}" for label in self.intent_slots), *(f"SL:{label}" for label in self.slot_intents))

    @property
    def intents(self) -> tuple[str, ...]:
        """Intent labels, sorted."""
        return tuple(self.intent_slots)

    @property
    def slots(self) -> tuple[str, ...]:
        """Slot labels, sorted."""
        return tuple(self.slot_intents)

    def id(self, token: str) -> int:
        """Id of ``]``, ``IN:label`` or ``SL:label``.

        Raises:
            FrameError: the ontology has no such label.
        """
        try:
            return self._ids[token]
        except KeyError:
            raise FrameError(
                "E120",
                f"label {token!r} is not in the ontology of {len(self.intents)} intents and {len(self.slots)} slots.",
                remedy="Build the ontology from data that has the label, or check its spelling.",
            ) from None

    def check(self, frame: Frame) -> None:
        """Verifies labels and nesting of a frame.

        Raises:
            FrameError: a label or a nesting that training never showed.
        """
        self.id(f"IN:{frame.root.label}")
        for intent in frame.intents():
            for child in intent.children:
                if isinstance(child, Slot):
                    self.id(f"SL:{child.label}")
                    if child.label not in self.intent_slots[intent.label]:
                        raise _unseen(f"slot {child.label} never occurs under intent {intent.label}")
        for slot in frame.slots():
            for nested in slot.children:
                if isinstance(nested, Intent):
                    self.id(f"IN:{nested.label}")
                    if nested.label not in self.slot_intents[slot.label]:
                        raise _unseen(f"intent {nested.label} never nests in slot {slot.label}")
                elif not self.slot_spans[slot.label]:
                    raise _unseen(f"slot {slot.label} never holds text")
            if not slot.children and not self.slot_empty[slot.label]:
                raise _unseen(f"slot {slot.label} is never empty")

    def valid(self, frame: Frame) -> bool:
        """Whether :meth:`check` accepts the frame."""
        try:
            self.check(frame)
        except FrameError:
            return False
        return True

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {
            "version": VERSION,
            "intent_slots": self.intent_slots,
            "slot_intents": self.slot_intents,
            "slot_spans": self.slot_spans,
            "slot_empty": self.slot_empty,
            "roots": self.roots,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any], where: str = "") -> Ontology:
        """The ontology that :meth:`to_dict` wrote.

        Raises:
            BundleError: another format or version.
        """
        try:
            check_version(value, VERSION, "ontology", "E310", where)
            return cls(
                value["intent_slots"], value["slot_intents"], value["slot_spans"], value["slot_empty"], value["roots"]
            )
        except (KeyError, TypeError) as error:
            raise BundleError("E311", f"not an ontology ({error!r}).", where=where, remedy="Export again.") from error

    def save(self, path: Path | str) -> None:
        """Writes the ontology as JSON."""
        write_json(path, self.to_dict())


def _unseen(what: str) -> FrameError:
    return FrameError("E121", f"{what} in the training data.", remedy="The label or nesting is new to this parser.")
