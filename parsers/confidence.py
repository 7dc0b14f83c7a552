"""Calibrated probabilities of hypotheses, from what a parser has at hand once it has parsed.

A logistic regression over a few features of a reading (:data:`FEATURES`), as Platt scaling is over one (Platt 1999), whose
result is mapped to observed frequencies by a monotone piecewise linear function, as histogram binning does in steps. The
distance of the utterance from the training rows, which refuses utterances of other domains, is the Mahalanobis distance of
the mean encoder state to the nearest intent's mean under one shared covariance (Lee et al. 2018, arXiv 1807.03888; for
utterances Podolskiy et al. 2021, arXiv 2101.03778).

Nothing here imports torch. :mod:`assistants.calibration` fits the coefficients.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from frames.errors import BundleError
from frames.linearization import CLOSE, Token
from frames.tokenization import Source

#: Features of a reading, in the order of the coefficients:
#: its score; its score a token; how far its score is ahead of the next candidate's, at most :data:`MARGIN`, and whether there
#: is another; the least score of its tokens, and whether they are known; the score of the likeliest length; the log of the number of pieces; the share of pieces in no slot; the mean and the largest rarity of a piece; the
#: Mahalanobis distance of the utterance from the nearest intent's mean, and how much further the frame's own intent is.
#: Scores are log-probabilities on a log scale (:func:`_log_scale`).
FEATURES = (
    "score", "token_score", "margin", "rivals", "least_token", "tokens_known", "length", "pieces", "uncovered",
    "mean_rarity", "rarity", "distance", "own_distance",
)  # fmt: skip
#: Features of a slot beside the logit of its frame's probability: the least log-probability of its own tokens, and whether
#: they are known; the log of the number of its pieces; how deep it is.
SLOT_FEATURES = ("frame", "least_token", "tokens_known", "pieces", "depth")
#: File of a bundle that holds the background.
BACKGROUND = "confidence.npz"
#: Log-probability by which the best candidate is ahead where there is no other; no difference counts for more.
MARGIN = 8.0
#: Log-probabilities below this count as this.
FLOOR = -20.0
#: Log-probabilities closer to 0 than this are told apart no more.
EPSILON = 1e-3


@dataclass(frozen=True)
class Reading:
    """What a parser knows of its best hypothesis of one utterance.

    Attributes:
        tokens: the frame, linearized.
        token_scores: log-probability of each token under the decoder, None where the decoder has not scored the frame.
        score: of the hypothesis.
        rival: score of the next candidate, None without one.
    """

    tokens: list[Token]
    token_scores: list[float] | None
    score: float
    rival: float | None


@dataclass(frozen=True)
class Background:
    """The utterances of training, to tell how far another one is from them.

    Attributes:
        rarities: negated log-frequency of each piece ``[vocabulary]``.
        whitening: ``[W, W]``, by which differences of mean encoder states have the identity as covariance.
        means: whitened mean state of each intent's utterances ``[I, W]``.
        intents: labels of the rows of ``means``.
    """

    rarities: np.ndarray
    whitening: np.ndarray
    means: np.ndarray
    intents: tuple[str, ...]

    @classmethod
    def fit(cls, states: np.ndarray, intents: Sequence[str], pieces: np.ndarray) -> Background:
        """From training rows.

        Args:
            states: mean encoder state of each row ``[N, W]``.
            intents: label of the root intent of each row.
            pieces: how often training has each piece ``[vocabulary]``.
        """
        labels, of_row = np.unique(np.array(intents), return_inverse=True)
        states = states.astype(np.float64)
        means = np.stack([states[of_row == k].mean(axis=0) for k in range(len(labels))])
        apart = states - means[of_row]
        values, vectors = np.linalg.eigh(apart.T @ apart / max(1, len(apart) - 1))
        # Directions that hardly vary would count for any distance; rows that are all alike have no other.
        whitening = vectors / np.sqrt(np.maximum(values, 1e-3 * values.mean() or 1.0))
        rarities = np.log((pieces.sum() + len(pieces)) / (pieces + 1))
        half = np.float16
        return cls(
            rarities.astype(half), whitening.astype(half), (means @ whitening).astype(half), tuple(labels.tolist())
        )

    def distances(self, states: np.ndarray) -> np.ndarray:
        """Distances ``[B, I]`` of mean encoder states ``[B, W]`` from the intents' means, in standard deviations a dimension."""
        whitening, means, norms = self._single
        whitened = states @ whitening
        squared = (whitened**2).sum(1)[:, None] - 2 * whitened @ means.T + norms
        return np.sqrt(np.maximum(squared, 0) / states.shape[1])

    @cached_property
    def _single(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whitening, means, and squared norms of the means, in single precision: conversion would cost every utterance."""
        means = self.means.astype(np.float32)
        return self.whitening.astype(np.float32), means, (means**2).sum(1)

    @cached_property
    def places(self) -> dict[str, int]:
        """Row of each intent's mean."""
        return {label: k for k, label in enumerate(self.intents)}

    def to_bytes(self) -> bytes:
        """The arrays as an ``.npz`` file."""
        content = io.BytesIO()
        np.savez(content, rarities=self.rarities, whitening=self.whitening, means=self.means, intents=self.intents)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, where: str = "") -> Background:
        """The inverse of :meth:`to_bytes`.

        Raises:
            BundleError: the file holds anything else.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                found = cls(arrays["rarities"], arrays["whitening"], arrays["means"], tuple(arrays["intents"].tolist()))
            width = found.whitening.shape[0]
            if found.whitening.shape != (width, width) or found.means.shape != (len(found.intents), width):
                raise ValueError("shapes do not fit each other")
        except (ValueError, KeyError, OSError, EOFError, IndexError, zipfile.BadZipFile) as error:
            raise BundleError(
                "E518",
                f"the training rows' statistics cannot be read ({error}).",
                where=where,
                remedy="Run `framefill calibrate` again.",
            ) from error
        return found


@dataclass(frozen=True)
class Logistic:
    """A logistic regression over standardized features, their squares, and their products with one of them.

    Attributes:
        mean: of each feature ``[F]``.
        deviation: standard deviation of each ``[F]``.
        weights: ``[3 F]``.
        bias: the intercept.
        switch: number of the feature that the others are multiplied by.
    """

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    bias: float
    switch: int

    def inputs(self, features: np.ndarray) -> np.ndarray:
        """Features ``[N, F]``, NaN where one is not known, as what the weights multiply ``[N, 3 F]``."""
        standard = (features - self.mean) / self.deviation
        standard = np.clip(np.where(np.isnan(standard), 0.0, standard), -6, 6)
        return np.concatenate((standard, standard**2, standard * standard[:, self.switch, None]), axis=1)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Log-odds ``[N]``."""
        return self.inputs(features) @ self.weights + self.bias

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        arrays = {name: [round(float(x), 6) for x in getattr(self, name)] for name in ("mean", "deviation", "weights")}
        return {**arrays, "bias": round(self.bias, 6), "switch": self.switch}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], features: int) -> Logistic:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: for another number of features.
        """
        mean, deviation, weights = (np.array(value[name], np.float64) for name in ("mean", "deviation", "weights"))
        if mean.shape != (features,) or deviation.shape != (features,) or weights.shape != (3 * features,):
            raise ValueError(f"coefficients are not for {features} features")
        return cls(mean, deviation, weights, float(value["bias"]), int(value["switch"]))


class ProbabilityEstimator(Protocol):
    """Gives readings their probabilities, see :class:`Confidence`."""

    def probabilities(
        self, sources: Sequence[Source], states: np.ndarray, lengths: np.ndarray, readings: Sequence[Reading]
    ) -> list[tuple[float, tuple[float, ...]]]:
        """See :meth:`Confidence.probabilities`."""
        ...

    def of_others(self, best: float, readings: Sequence[Reading]) -> list[tuple[float, tuple[float, ...]]]:
        """See :meth:`Confidence.of_others`."""
        ...


@dataclass(frozen=True)
class Confidence:
    """Probabilities of readings.

    Attributes:
        background: the utterances of training.
        frames: log-odds that a frame is right, from :data:`FEATURES`.
        slots: log-odds that a slot is right, from :data:`SLOT_FEATURES`.
        others: share of the utterances with a wrong best frame whose right one is among the other candidates.
        knots: what ``frames`` gives, and how often that was right ``[2, K]``, both ascending from 0 to 1.
    """

    background: Background
    frames: Logistic
    slots: Logistic
    others: float
    knots: np.ndarray

    def probabilities(
        self, sources: Sequence[Source], states: np.ndarray, lengths: np.ndarray, readings: Sequence[Reading]
    ) -> list[tuple[float, tuple[float, ...]]]:
        """The probability that each frame is right, and that of each of its slots.

        Args:
            sources: the utterances.
            states: their mean encoder states ``[B, W]``.
            lengths: log-probability of the likeliest length of each ``[B]``.
            readings: the best hypothesis of each.
        """
        logits = self.frames.logits(frame_features(self.background, sources, states, lengths, readings))
        return [
            (probability, self._of_slots(reading, logit))
            for probability, logit, reading in zip(
                self.calibrated(logits).tolist(), logits.tolist(), readings, strict=True
            )
        ]

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities from the log-odds of ``frames``."""
        return np.interp(sigmoid(logits), *self.knots)

    def of_others(self, best: float, readings: Sequence[Reading]) -> list[tuple[float, tuple[float, ...]]]:
        """As :meth:`probabilities`, for the candidates behind the best one.

        Args:
            best: probability of the best one.
            readings: of the others; they share, by their scores, what the best one leaves.
        """
        if not readings:
            return []
        scores = np.array([reading.score for reading in readings])
        shares = np.exp(scores - scores.max())
        found = []
        for share, reading in zip((shares / shares.sum()).tolist(), readings, strict=True):
            probability = min((1 - best) * self.others * share, best)
            found.append((probability, self._of_slots(reading, _logit(probability))))
        return found

    def _of_slots(self, reading: Reading, logit: float) -> tuple[float, ...]:
        features = slot_features(reading, logit)
        return tuple(sigmoid(self.slots.logits(features)).tolist()) if len(features) else ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the background."""
        return {
            "features": list(FEATURES),
            "frames": self.frames.to_dict(),
            "slot_features": list(SLOT_FEATURES),
            "slots": self.slots.to_dict(),
            "others": self.others,
            "knots": [[round(float(x), 6) for x in row] for row in self.knots],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], background: Background, where: str = "") -> Confidence:
        """The inverse of :meth:`to_dict`.

        Raises:
            BundleError: ``value`` is anything else, or of a version with other features.
        """
        try:
            if (*value["features"],) != FEATURES or (*value["slot_features"],) != SLOT_FEATURES:
                raise ValueError("other features")
            frames = Logistic.from_dict(value["frames"], len(FEATURES))
            slots = Logistic.from_dict(value["slots"], len(SLOT_FEATURES))
            knots = np.array(value["knots"], np.float64)
            if knots.ndim != 2 or len(knots) != 2 or (np.diff(knots) < 0).any():
                raise ValueError("knots are not two ascending rows")
            return cls(background, frames, slots, float(value["others"]), knots)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                "E519",
                f"the coefficients of the probabilities cannot be read ({error}).",
                where=where,
                remedy="Run `framefill calibrate` again.",
            ) from error


def pooled(memory: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean states ``[B, W]`` of encoder states ``[B, S, W]`` over pieces, by their mask ``[B, S]``."""
    # In the precision of the states, or what is computed from them would be in double precision.
    return (memory * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True, dtype=memory.dtype)


def frame_features(
    background: Background,
    sources: Sequence[Source],
    states: np.ndarray,
    lengths: np.ndarray,
    readings: Sequence[Reading],
) -> np.ndarray:
    """The :data:`FEATURES` ``[B, F]``; arguments as for :meth:`Confidence.probabilities`."""
    distances = background.distances(states)
    rows = []
    for source, to_intents, length, reading in zip(sources, distances, lengths.tolist(), readings, strict=True):
        tokens, known = reading.tokens, reading.token_scores is not None
        rarities = background.rarities[list(source.ids)].astype(np.float32)
        own = background.places.get(str(tokens[0]).removeprefix("IN:"))
        nearest = float(to_intents.min())
        rows.append(
            [
                _log_scale(reading.score),
                _log_scale(reading.score / len(tokens)),
                MARGIN if reading.rival is None else min(reading.score - reading.rival, MARGIN),
                reading.rival is not None,
                _log_scale(_least(reading.token_scores, range(len(tokens)))),
                known,
                _log_scale(length),
                math.log(len(source)),
                1 - _covered(tokens, len(source)) / len(source),
                float(rarities.mean()),
                float(rarities.max()),
                nearest,
                0.0 if own is None else float(to_intents[own]) - nearest,
            ]
        )
    return np.array(rows, dtype=np.float64)


def slot_features(reading: Reading, logit: float) -> np.ndarray:
    """The :data:`SLOT_FEATURES` ``[slots, F]`` of a frame whose own log-odds are ``logit``."""
    rows = []
    for depth, places in _slots(reading.tokens):
        pointers = [token for token in (reading.tokens[place] for place in places) if isinstance(token, int)]
        width = max(pointers) - min(pointers) + 1 if pointers else 1
        least = _least(reading.token_scores, places)
        rows.append([logit, least, reading.token_scores is not None, math.log(width), depth])
    return np.array(rows, dtype=np.float64).reshape(-1, len(SLOT_FEATURES))


def _slots(tokens: Sequence[Token]) -> list[tuple[int, list[int]]]:
    """Depth and the places of the own tokens of each slot, in the order of opening brackets."""
    found: list[tuple[int, list[int]]] = []
    open_brackets: list[list[int]] = []
    for place, token in enumerate(tokens):
        if isinstance(token, str) and token != CLOSE:
            places = [place]
            if token.startswith("SL:"):
                found.append((len(open_brackets) // 2, places))
            open_brackets.append(places)
        elif open_brackets:
            open_brackets[-1].append(place)
            if token == CLOSE:
                open_brackets.pop()
    return found


def _log_scale(log_probability: float) -> float:
    """A log-probability on a scale on which -0.1 and -0.01 are as far apart as -10 and -1; NaN stays NaN."""
    return -math.log(EPSILON - min(log_probability, 0.0)) if log_probability == log_probability else log_probability


def _least(scores: Sequence[float] | None, places: Sequence[int]) -> float:
    return math.nan if scores is None else max(min(scores[place] for place in places), FLOOR)


def _covered(tokens: Sequence[Token], pieces: int) -> int:
    """Pieces from the first to the last one of each slot without a nested intent."""
    inside = np.zeros(pieces, dtype=bool)
    for _, places in _slots(tokens):
        pointers = [token for token in (tokens[place] for place in places) if isinstance(token, int)]
        if pointers:
            inside[min(pointers) : max(pointers) + 1] = True
    return int(inside.sum())


def _logit(probability: float) -> float:
    kept = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(kept / (1 - kept))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Log-odds to probabilities."""
    return 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
