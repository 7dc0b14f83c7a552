"""framefill's own JSON; ``docs/schemas/answer.v1.json`` is its JSON Schema, :mod:`assistants.shapes.models` its models."""

from __future__ import annotations

import math
from typing import Any

from assistants.answers import Answer
from frames.render import svg
from parsers.interface import Hypothesis

#: Version of the shape; a key is added without a new version, but never removed or given another meaning.
VERSION = 1


def to_dict(answer: Answer, details: bool = False) -> dict[str, Any]:
    """An answer as JSON.

    Args:
        answer: of one utterance.
        details: scores, the probabilities of slots, the trace and a drawing of each frame as well.
    """
    hypotheses = [_hypothesis(hypothesis, details) for hypothesis in answer.hypotheses]
    return {"text": answer.text, "hypotheses": hypotheses, "abstained": answer.abstained}


def _hypothesis(hypothesis: Hypothesis, details: bool) -> dict[str, Any]:
    frame = hypothesis.frame
    value: dict[str, Any] = {
        "frame": frame.to_dict()["frame"] if frame else None,
        "text": str(frame) if frame else None,
        "probability": hypothesis.probability,
    }
    if details:
        value |= {
            "score": _finite(hypothesis.score),
            "slots": list(hypothesis.slots),
            "trace": _finite(hypothesis.trace),
            "drawing": svg(frame.root, frame.utterance) if frame else None,
        }
    return value


def _finite(value: Any) -> Any:
    """A value with null in place of the infinities that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
