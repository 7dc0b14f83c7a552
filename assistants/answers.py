"""What an assistant gets for an utterance: readings with their probabilities, or a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assistants.onnx_backend import BundleParser
from frames.errors import UsageError
from parsers.interface import Hypothesis, parse_each


@dataclass(frozen=True)
class Answer:
    """The readings of one utterance.

    Attributes:
        text: the utterance.
        hypotheses: readings, best first, at least one.
        abstained: whether the best reading is too improbable to be acted on.
    """

    text: str
    hypotheses: list[Hypothesis]
    abstained: bool


def own_threshold(parser: BundleParser) -> float | None:
    """Least probability of an answer that is acted on, by the bundle; None from a bundle that is not calibrated."""
    return parser.manifest.get("confidence", {}).get("threshold")


def answer(parser: BundleParser, texts: Sequence[str], n_best: int = 1, threshold: float | None = None) -> list[Answer]:
    """Parses utterances, and says of each whether its best reading can be acted on.

    Args:
        parser: as :func:`assistants.runtime.load` gives it.
        texts: utterances.
        n_best: readings for each.
        threshold: least probability of an answer that is acted on; None takes the bundle's own, which a bundle that is
            not calibrated does not have: then nothing is refused.

    Raises:
        UsageError: as :meth:`parsers.interface.Parser.parse`.
    """
    least = _least(parser, threshold)
    return [_answer(text, found, least) for text, found in zip(texts, parser.parse(texts, n_best), strict=True)]


def answer_each(
    parser: BundleParser, texts: Sequence[str], n_best: int = 1, threshold: float | None = None
) -> list[Answer | UsageError]:
    """As :func:`answer`, with the error of each utterance that cannot be parsed in its place.

    Args:
        parser: see :func:`answer`.
        texts: see :func:`parsers.interface.parse_each`.
        n_best: see :func:`answer`.
        threshold: see :func:`answer`.
    """
    least = _least(parser, threshold)
    return [
        found if isinstance(found, UsageError) else _answer(text, found, least)
        for text, found in zip(texts, parse_each(parser, texts, n_best), strict=True)
    ]


def _least(parser: BundleParser, threshold: float | None) -> float:
    return (own_threshold(parser) or 0.0) if threshold is None else threshold


def _answer(text: str, hypotheses: list[Hypothesis], least: float) -> Answer:
    probability = hypotheses[0].probability
    return Answer(text, hypotheses, probability is not None and probability < least)
