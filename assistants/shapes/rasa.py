"""The shape of Rasa NLU's ``POST /model/parse`` (Rasa Open Source 3, HTTP API, "Parse a message").

A frame is a tree and Rasa's entities are a list, so nesting is told by Rasa's roles and groups: an entity of a nested intent
has the label of the slot around that intent as its ``role``, and all entities of one nested intent share a ``group``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from assistants.answers import Answer
from assistants.shapes.names import Names
from frames.frame import Frame
from frames.nodes import Intent, Slot, spans
from parsers.interface import Hypothesis


def to_dict(answer: Answer, names: Names) -> dict[str, Any]:
    """An answer as Rasa gives it.

    The intent of an abstention, and of an intent that the assistant does not have, is ``null`` with the confidence of the
    reading that was refused; it has no entities. ``intent_ranking`` has each intent once, with its best reading's confidence.
    """
    shares = confidences(answer.hypotheses)
    ranking: dict[str, float] = {}
    for hypothesis, share in zip(answer.hypotheses, shares, strict=True):
        name = names.intent(hypothesis.frame.root.label) if hypothesis.frame else None
        if name is not None:
            ranking.setdefault(name, share)
    best = answer.hypotheses[0]
    name = accepted(answer, names)
    return {
        "text": answer.text,
        "intent": {"name": name, "confidence": shares[0]},
        "entities": [] if name is None else entities(best, names),
        "intent_ranking": [{"name": intent, "confidence": share} for intent, share in ranking.items()],
    }


def accepted(answer: Answer, names: Names) -> str | None:
    """The assistant's name of the answer's intent, None if the utterance is refused or the assistant lacks the intent."""
    frame = answer.hypotheses[0].frame
    return None if answer.abstained or frame is None else names.intent(frame.root.label)


def confidences(hypotheses: Sequence[Hypothesis]) -> list[float]:
    """A confidence in [0, 1] for each reading.

    The calibrated probability where there is one. A parser that is not calibrated has scores only, which say which of the
    readings is better but not how good it is: its confidences are each reading's share (softmax) among those given.
    """
    if all(hypothesis.probability is not None for hypothesis in hypotheses):
        return [float(hypothesis.probability or 0.0) for hypothesis in hypotheses]
    best = max(hypothesis.score for hypothesis in hypotheses)
    weights = [math.exp(hypothesis.score - best) for hypothesis in hypotheses]
    return [weight / sum(weights) for weight in weights]


def entities(hypothesis: Hypothesis, names: Names) -> list[dict[str, Any]]:
    """The slots of a reading in the order of their opening brackets.

    Each has ``entity``, ``start``, ``end`` (characters of the utterance, the hull of all below the slot) and ``value``; a
    calibrated parser adds ``confidence_entity``, a nested intent ``role`` and ``group``. A slot without text has no
    characters to point at and is left out.
    """
    frame = hypothesis.frame
    if frame is None:
        return []
    probabilities = dict(enumerate(hypothesis.slots))
    found = _entities(frame, frame.root, {}, names, count(), count(1), probabilities)
    return [entity for entity in found if entity["start"] < entity["end"]]


def _entities(
    frame: Frame,
    intent: Intent,
    place: dict[str, str],
    names: Names,
    slots: Iterator[int],
    groups: Iterator[int],
    probabilities: dict[int, float],
) -> Iterator[dict[str, Any]]:
    """Entities of an intent and all below it; ``place`` is the role and group that the intent's own slots have."""
    for slot in intent.children:
        if not isinstance(slot, Slot):
            continue
        below = list(spans(slot))
        start, end = (below[0].start, below[-1].end) if below else (0, 0)
        name, probability = names.slot(slot.label), probabilities.get(next(slots))
        known = {} if probability is None else {"confidence_entity": probability}
        yield {
            "entity": name, "start": start, "end": end, "value": frame.utterance[start:end],
            **known, **place, "extractor": "framefill",
        }  # fmt: skip
        for child in slot.children:
            if isinstance(child, Intent):
                # A nested intent keeps its label where the assistant has no name for it; only the root is refused.
                group = f"{next(groups)}:{names.intent(child.label) or child.label}"
                yield from _entities(frame, child, {"role": name, "group": group}, names, slots, groups, probabilities)
