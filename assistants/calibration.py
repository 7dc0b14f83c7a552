"""Fits the probabilities of a bundle's hypotheses, and the threshold below which an assistant had better ask again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assistants import runtime
from assistants.bundle import changeable, rewritten
from assistants.onnx_backend import NARBundleParser
from data.out_of_scope import OutOfScope
from data.topv2.reader import Example
from frames.errors import UsageError
from frames.files import write_bytes
from frames.folders import check_replaceable
from frames.frame import Frame
from frames.locks import locked
from frames.nodes import Slot, walk
from frames.tokenization import Source
from lightning_modules.evaluation import spread
from parsers.confidence import (
    BACKGROUND,
    FEATURES,
    SLOT_FEATURES,
    Background,
    Confidence,
    Logistic,
    Reading,
    frame_features,
    pooled,
    sigmoid,
    slot_features,
)
from parsers.groups import in_groups
from parsers.interface import Hypothesis
from parsers.nar import NonAutoregressiveParser

#: Figures of a calibration in the manifest, beside the coefficients.
FIGURES = (
    "threshold", "rows", "expected_calibration_error", "expected_calibration_error_of_slots", "answered",
    "right_of_answered", "out_of_scope_refused",
)  # fmt: skip
#: Rows that the coefficients are fitted on, and rows that the figures are of.
FITTED, REPORTED = slice(0, None, 2), slice(1, None, 2)
#: Training rows whose encoder states are looked at, about.
STATES = 12_000
#: Rows with a wrong best frame among whose other candidates the right one is looked for, about.
SECOND_LOOKS = 100
#: Share of the answered rows that are right at the threshold.
TARGET = 0.95
#: Times that an out-of-scope utterance is counted beside an eval row, of which there are many more.
FOREIGN_WEIGHT = 3
#: Bins of the expected calibration error, as in Guo et al. 2017.
BINS = 15
#: Weight of the squared coefficients, for a row.
REGULARIZATION = 1e-4
#: Utterances parsed together.
CHUNK = 512


@dataclass(frozen=True)
class Parsed:
    """An utterance that the bundle has parsed, with all that its probability is computed from."""

    source: Source
    state: np.ndarray
    length: float
    reading: Reading
    hypothesis: Hypothesis


@dataclass(frozen=True)
class Calibration:
    """What was fitted, and how it does on the other rows.

    Attributes:
        confidence: the coefficients.
        manifest: what the manifest says of them.
        probabilities: of the eval rows' frames.
        refused: probabilities of the out-of-scope utterances' frames.
    """

    confidence: Confidence
    manifest: dict[str, Any]
    probabilities: np.ndarray
    refused: np.ndarray


@dataclass(frozen=True)
class Collected:
    """All that probabilities are fitted on.

    Attributes:
        background: the utterances of training.
        parsed: the eval rows as parsed, in their order.
        gold: their decoupled frames.
        foreign: the out-of-scope utterances as parsed.
    """

    background: Background
    parsed: list[Parsed]
    gold: list[Frame]
    foreign: list[Parsed]


class _Recorder:
    """Keeps the best readings of utterances and gives none of them a probability above 0.

    Implements :class:`parsers.confidence.ProbabilityEstimator`.
    """

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Source, np.ndarray, float, Reading]] = {}

    def probabilities(
        self, sources: Sequence[Source], states: np.ndarray, lengths: np.ndarray, readings: Sequence[Reading]
    ) -> list[tuple[float, tuple[float, ...]]]:
        for row in zip(sources, states, lengths.tolist(), readings, strict=True):
            self.kept[row[0].text] = row
        return [(0.0, ())] * len(sources)

    def of_others(self, best: float, readings: Sequence[Reading]) -> list[tuple[float, tuple[float, ...]]]:
        return [(0.0, ())] * len(readings)


def calibrate_bundle(
    path: Path | str,
    train: Sequence[Example],
    examples: Sequence[Example],
    out_of_scope: Sequence[OutOfScope],
    progress: Callable[[int], None] = lambda done: None,
) -> Calibration:
    """Fits on every other row, reports on the rest, and writes the coefficients into the bundle.

    Args:
        path: folder of the bundle; changed whole or not at all.
        train: the rows that it was trained on.
        examples: rows of the split that selects.
        out_of_scope: utterances that no intent of the ontology fits; every other one counts as wrong in the fit.
        progress: called with the number of utterances done in each step.

    Raises:
        BundleError: the bundle cannot be read, or is a zip.
        UsageError: there are too few rows, the parser is of a kind without probabilities, or the folder holds anything
            that is not the bundle's.
        MachineError: the disk is full; the bundle is left as it was.
    """
    bundle = changeable(path)
    check_replaceable(path)
    parser = runtime.load(path)
    if not isinstance(parser, NARBundleParser):
        raise UsageError(
            "E333",
            f"no probabilities are fitted for a parser of kind {bundle.manifest['parser']!r}.",
            where=str(path),
            remedy="Calibrate a conv_nar, span_pointer or raf bundle; this one parses without probabilities.",
        )
    found = calibrated(parser, collect(parser, train, examples, out_of_scope, progress))
    with locked(bundle.path), rewritten(bundle, {BACKGROUND}) as (staging, manifest):
        write_bytes(staging / BACKGROUND, found.confidence.background.to_bytes())
        manifest["confidence"] = found.manifest
    return found


def collect(
    parser: NonAutoregressiveParser,
    train: Sequence[Example],
    examples: Sequence[Example],
    out_of_scope: Sequence[OutOfScope],
    progress: Callable[[int], None] = lambda done: None,
) -> Collected:
    """Parses what probabilities are fitted on; arguments as for :func:`calibrate_bundle`."""
    return Collected(
        _background(parser, train),
        _parsed(parser, [example.utterance for example in examples], progress),
        [example.frame.decoupled() for example in examples],
        _parsed(parser, [entry.utterance for entry in out_of_scope], progress),
    )


def calibrated(parser: NonAutoregressiveParser, collected: Collected) -> Calibration:
    """Fits on every other row and reports on the rest; changes nothing."""
    background, parsed, gold, foreign = collected.background, collected.parsed, collected.gold, collected.foreign
    right = np.array([row.hypothesis.frame == frame for row, frame in zip(parsed, gold, strict=True)])
    if min(right[FITTED].sum(), (~right[FITTED]).sum()) < 5 or len(right) < 4:
        raise UsageError(
            "E332",
            f"{len(right)} rows, {int(right.sum())} of them right, are too few to fit probabilities on.",
            remedy="Give more rows, or a parser that is neither always right nor always wrong.",
        )
    features, foreign_features = _features(background, parsed), _features(background, foreign)
    wrong = np.tile(foreign_features[FITTED], (FOREIGN_WEIGHT, 1))
    frames = fit(
        np.concatenate((features[FITTED], wrong)),
        np.concatenate((right[FITTED], np.zeros(len(wrong), dtype=bool))),
        FEATURES.index("rivals"),
    )
    slots = _slots(parsed[FITTED], gold[FITTED], frames.logits(features[FITTED]))
    slot_model = fit(*slots, SLOT_FEATURES.index("tokens_known"))
    others = _others(parser, list(np.array(parsed[FITTED], dtype=object)[~right[FITTED]]), parsed, gold)
    knots = monotone(sigmoid(frames.logits(features[FITTED])), right[FITTED])
    confidence = Confidence(background, frames, slot_model, others, knots)
    probabilities, refused = (confidence.calibrated(frames.logits(x)) for x in (features, foreign_features))
    threshold = least_threshold(probabilities[FITTED], right[FITTED])
    reported = _slots(parsed[REPORTED], gold[REPORTED], frames.logits(features[REPORTED]))
    answered = probabilities[REPORTED] >= threshold
    figures = {
        "threshold": threshold,
        "rows": {"fitted": len(right[FITTED]), "reported": len(right[REPORTED])},
        "expected_calibration_error": calibration_error(probabilities[REPORTED], right[REPORTED]),
        "expected_calibration_error_of_slots": calibration_error(
            sigmoid(slot_model.logits(reported[0])), reported[1].astype(bool)
        ),
        "answered": round(float(answered.mean()), 4),
        "right_of_answered": round(float(right[REPORTED][answered].mean()), 4) if answered.any() else None,
        "out_of_scope_refused": round(float((refused[REPORTED] < threshold).mean()), 4),
    }
    return Calibration(confidence, {**figures, **confidence.to_dict()}, probabilities, refused)


def fit(features: np.ndarray, right: np.ndarray, switch: int) -> Logistic:
    """A logistic regression with a small quadratic penalty.

    Args:
        features: ``[N, F]``, NaN where one is not known.
        right: ``[N]`` what is to be predicted.
        switch: see :class:`parsers.confidence.Logistic`.
    """
    mean, deviation = np.nanmean(features, axis=0), np.nanstd(features, axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    start = Logistic(mean, deviation, np.zeros(3 * features.shape[1]), 0.0, switch)
    inputs = torch.from_numpy(start.inputs(features))
    target = torch.from_numpy(right.astype(np.float64))
    weights = torch.zeros(inputs.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = inputs @ weights[:-1] + weights[-1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        loss = loss + REGULARIZATION * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    found = weights.detach().numpy()
    return Logistic(mean, deviation, found[:-1], float(found[-1]), switch)


def monotone(probabilities: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Knots ``[2, K]`` of a monotone function from probabilities to frequencies: the means of :data:`BINS` bins of equal size."""
    bins = np.array_split(np.argsort(probabilities, kind="stable"), BINS)
    means = [(probabilities[rows].mean(), right[rows].mean()) for rows in bins if len(rows)]
    knots = np.array([(0.0, 0.0), *means, (1.0, 1.0)]).T
    return np.maximum.accumulate(knots, axis=1)


def least_threshold(probabilities: np.ndarray, right: np.ndarray, target: float = TARGET) -> float:
    """The least probability at which the rows that have at least that much are surely right at a share of ``target``.

    Of many thresholds the one that just reaches the target on some rows mostly misses it on others, so the share has to be
    two standard errors above it. Where rows are too few for that, the target itself is enough; 1.0 where there is none.

    Args:
        probabilities: ``[N]`` of the rows.
        right: ``[N]`` whether their frames are right.
        target: share of right rows among the answered ones.
    """
    order, shares = right_of_likeliest(probabilities, right)
    error = np.sqrt(target * (1 - target) / np.arange(1, len(order) + 1))
    # Rows whose probabilities are equal once they are rounded, as the threshold is, are answered together or not at all.
    thresholds = probabilities[order].round(4)
    last = np.flatnonzero(np.diff(thresholds, append=-1.0))
    for wanted in (target + 2 * error, np.full(len(order), target)):
        enough = last[shares[last] >= wanted[last]]
        if len(enough):
            return float(thresholds[enough[-1]])
    return 1.0


def right_of_likeliest(probabilities: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows from the likeliest on ``[N]``, and the share of right ones among those up to each ``[N]``."""
    order = np.argsort(-probabilities, kind="stable")
    return order, right[order].cumsum() / np.arange(1, len(order) + 1)


def calibration_error(probabilities: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over :data:`BINS` bins of equal width (Guo et al. 2017, arXiv 1706.04599)."""
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = [abs(probabilities[bins == k].mean() - right[bins == k].mean()) * (bins == k).sum() for k in np.unique(bins)]
    return round(float(sum(gaps) / max(1, len(right))), 4)


def _background(parser: NonAutoregressiveParser, train: Sequence[Example]) -> Background:
    counts: Counter[int] = Counter()
    for begin in range(0, len(train), CHUNK):
        for source in parser.tokenizer.batch([example.utterance for example in train[begin : begin + CHUNK]]):
            counts.update(source.ids)
    pieces = np.array([counts[i] for i in range(parser.tokenizer.vocab_size)])
    rows = spread(train, STATES)
    sources = parser.tokenizer.batch([example.utterance for example in rows])
    states = in_groups(sources, lambda group: _states(parser, group), parser.workers)
    return Background.fit(np.stack(states), [example.frame.root.label for example in rows], pieces)


def _states(parser: NonAutoregressiveParser, sources: list[Source]) -> list[np.ndarray]:
    encoded = parser._encode(sources)
    return list(pooled(np.asarray(encoded.memory), encoded.mask))


def _parsed(
    parser: NonAutoregressiveParser, utterances: Sequence[str], progress: Callable[[int], None]
) -> list[Parsed]:
    recorder = _Recorder()
    before, parser.confidence = parser.confidence, recorder
    found = []
    try:
        for begin in range(0, len(utterances), CHUNK):
            chunk = utterances[begin : begin + CHUNK]
            for text, (best, *_) in zip(chunk, parser.parse(chunk), strict=True):
                found.append(Parsed(*recorder.kept[text], best))
            progress(len(chunk))
    finally:
        parser.confidence = before
    return found


def _features(background: Background, parsed: Sequence[Parsed]) -> np.ndarray:
    return frame_features(
        background,
        [row.source for row in parsed],
        np.stack([row.state for row in parsed]),
        np.array([row.length for row in parsed]),
        [row.reading for row in parsed],
    )


def _slots(parsed: Sequence[Parsed], gold: Sequence[Frame], logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features of all slots of some rows, and whether the gold frame has each."""
    features, right = [np.zeros((0, len(SLOT_FEATURES)))], []
    for row, frame, logit in zip(parsed, gold, logits.tolist(), strict=True):
        if row.hypothesis.frame is not None:
            of_gold = {node for node in walk(frame.root) if isinstance(node, Slot)}
            features.append(slot_features(row.reading, logit))
            right += [node in of_gold for node in walk(row.hypothesis.frame.root) if isinstance(node, Slot)]
    return np.concatenate(features), np.array(right)


def _others(
    parser: NonAutoregressiveParser, wrong: Sequence[Parsed], parsed: Sequence[Parsed], gold: Sequence[Frame]
) -> float:
    """Share of rows with a wrong best frame whose right one is among the other candidates."""
    frames = {row.source.text: frame for row, frame in zip(parsed, gold, strict=True)}
    texts = [row.source.text for row in wrong[:: max(1, len(wrong) // SECOND_LOOKS)]]
    several = parser.parse(texts, n_best=10)
    found = [
        any(hypothesis.frame == frames[text] for hypothesis in hypotheses[1:])
        for text, hypotheses in zip(texts, several, strict=True)
    ]
    return round(float(np.mean(found)), 4)
