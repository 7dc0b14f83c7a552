"""The events of Home Assistant's Wyoming protocol: ``Intent`` with its entities, or ``NotRecognized``."""

from __future__ import annotations

from collections import Counter
from typing import Any

from wyoming.event import Event
from wyoming.intent import Entity, Intent, NotRecognized

from assistants.answers import Answer
from assistants.shapes.names import Names
from assistants.shapes.rasa import accepted, entities


def to_event(answer: Answer, names: Names, context: dict[str, Any] | None = None) -> Event:
    """An answer as an event.

    Home Assistant reads entities as a mapping by name, and makes template variables of them. Those of nested intents therefore
    bear the name of the slot around them as well, ``TODO__DATE_TIME``; the second entity of a name is ``DATE_TIME__2``.

    Args:
        answer: of one utterance.
        names: the assistant's.
        context: of the conversation, which the event gives back.
    """
    name = accepted(answer, names)
    if name is None:
        return NotRecognized(context=context).event()
    seen: Counter[str] = Counter()
    found = []
    for entity in entities(answer.hypotheses[0], names):
        key = "__".join(filter(None, (entity.get("role"), entity["entity"])))
        seen[key] += 1
        found.append(Entity(key if seen[key] == 1 else f"{key}__{seen[key]}", entity["value"]))
    return Intent(name=name, entities=found, context=context).event()
