"""What every parser promises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Protocol

from frames.errors import UsageError
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
        probability: calibrated probability that the frame is right; None from a parser that is not calibrated.
        slots: calibrated probability of each slot of the frame, in the order of their opening brackets; empty from a
            parser that is not calibrated.
    """

    frame: Frame | None
    score: float
    trace: dict[str, Any] = field(default_factory=dict)
    probability: float | None = None
    slots: tuple[float, ...] = ()


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
            UsageError: an utterance is blank or too long to be read, or see :func:`check_request`.
        """
        ...


def parse_each(parser: Parser, utterances: Sequence[str], n_best: int = 1) -> list[list[Hypothesis] | UsageError]:
    """As :meth:`Parser.parse`, with the error of each utterance that cannot be parsed in its place.

    What is wrong with an utterance shows while a batch is parsed, at a place that depends on the parser. A batch with bad
    ones is halved until each of them is alone, so that the others are still parsed together.

    Args:
        parser: parses.
        utterances: texts; anything else is an error in its place.
        n_best: see :meth:`Parser.parse`.
    """
    if not utterances:
        return []
    try:
        return [*parser.parse(utterances, n_best)]
    except UsageError as error:
        if len(utterances) == 1:
            return [error]
    half = len(utterances) // 2
    return [*parse_each(parser, utterances[:half], n_best), *parse_each(parser, utterances[half:], n_best)]


def answer_first(answer: Hypothesis, found: Sequence[Hypothesis]) -> list[Hypothesis]:
    """What is answered when one reading is asked for, before the others that a wider search found; it need not be among them."""
    same = next((hypothesis for hypothesis in found if hypothesis.frame == answer.frame), answer)
    return [same, *(hypothesis for hypothesis in found if hypothesis is not same)]


def check_request(utterances: Iterable[str], n_best: int) -> list[str]:
    """The arguments of :meth:`Parser.parse`, checked before anything is computed.

    Returns:
        The utterances as a list.

    Raises:
        UsageError: ``utterances`` is no list of text, or ``n_best`` no whole number of at least 1.
    """
    if isinstance(utterances, str | bytes | Mapping) or not isinstance(utterances, Iterable):
        raise UsageError(
            "E453",
            f"parse was given {_shown(utterances)} in place of a list of utterances.",
            remedy='Pass a list, even for one utterance: parse(["wake me at 6"]).',
        )
    several = list(utterances)
    for i, utterance in enumerate(several):
        if not isinstance(utterance, str):
            raise UsageError(
                "E454",
                f"an utterance is {_shown(utterance)}, not text.",
                where=f"utterances[{i}]",
                remedy="Pass str; decode bytes first, as in text.decode('utf-8').",
            )
    if isinstance(n_best, bool) or not isinstance(n_best, Integral) or n_best < 1:
        raise UsageError("E455", f"n_best is {n_best!r}.", remedy="Pass a whole number of at least 1.")
    return several


def _shown(value: object) -> str:
    """A value and its type, short enough for a message."""
    text = repr(value)
    return "None" if value is None else f"{text if len(text) <= 40 else text[:39] + '…'} ({type(value).__name__})"
