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


def least_probability(parser: BundleParser, threshold: float | None = None) -> float | None:
    """Least probability of an answer that is acted on; None from a bundle that is not calibrated, where nothing is refused.

    Args:
        parser: as :func:`assistants.runtime.load` gives it.
        threshold: takes the place of the bundle's own.

    Raises:
        UsageError: a threshold is given, and the bundle has no probabilities to compare with it.
    """
    own: float | None = parser.manifest.get("confidence", {}).get("threshold")
    if threshold is not None and own is None:
        raise UsageError(
            "E556",
            f"a threshold of {threshold:g} is for bundles with probabilities, which this one has not.",
            remedy="Run `framefill calibrate` on it, where its kind allows that, or give no threshold.",
        )
    return own if threshold is None else threshold


def answer(parser: BundleParser, texts: Sequence[str], n_best: int = 1, threshold: float | None = None) -> list[Answer]:
    """Parses utterances, and says of each whether its best reading can be acted on.

    Args:
        parser: as :func:`assistants.runtime.load` gives it.
        texts: utterances.
        n_best: readings for each.
        threshold: see :func:`least_probability`.

    Raises:
        UsageError: as :func:`least_probability` and :meth:`parsers.interface.Parser.parse`.
    """
    least = least_probability(parser, threshold)
    return [_answer(text, found, least) for text, found in zip(texts, parser.parse(texts, n_best), strict=True)]


def answer_each(
    parser: BundleParser, texts: Sequence[str], n_best: int = 1, threshold: float | None = None
) -> list[Answer | UsageError]:
    """As :func:`answer`, with the error of each utterance that cannot be parsed in its place.

    Args:
        parser: see :func:`answer`.
        texts: see :func:`parsers.interface.parse_each`.
        n_best: see :func:`answer`.
        threshold: see :func:`least_probability`.

    Raises:
        UsageError: as :func:`least_probability`.
    """
    least = least_probability(parser, threshold)
    return [
        found if isinstance(found, UsageError) else _answer(text, found, least)
        for text, found in zip(texts, parse_each(parser, texts, n_best), strict=True)
    ]


def _answer(text: str, hypotheses: list[Hypothesis], least: float | None) -> Answer:
    probability = hypotheses[0].probability
    return Answer(text, hypotheses, least is not None and probability is not None and probability < least)
