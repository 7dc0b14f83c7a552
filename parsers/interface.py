"""What every parser promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from frames.frame import Frame
from frames.ontology import Ontology


@dataclass(frozen=True)
class Hypothesis:
    """One reading of an utterance.

    Attributes:
        frame: a well-formed, decoupled frame; None only when constrained decoding is switched off and the
            predicted sequence spells no frame.
        score: log-probability of the frame under the model; higher is better, and comparable within one
            utterance and parser only.
        trace: what the parser looked at on the way (lengths, tokens), JSON-able, for people to read.
    """

    frame: Frame | None
    score: float
    trace: dict[str, Any] = field(default_factory=dict)


class Parser(Protocol):
    """Utterances in, frames out. Metrics, notebooks, export and servers know no more than this.

    Attributes:
        ontology: the labels and nesting that its frames may have.
    """

    ontology: Ontology

    def parse(self, utterances: Sequence[str], n_best: int = 1) -> list[list[Hypothesis]]:
        """The best ``n_best`` readings of each utterance, best first, at least one each; the first is the same whatever
        ``n_best``.

        Raises:
            UsageError: an utterance is blank or too long to be read.
        """
        ...
