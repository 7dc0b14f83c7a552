"""Candidate frames of RAF, and the one formula that weighs their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from frames.linearization import Token
from parsers.nar import DecodingConfig
from parsers.raf.filling import NEVER
from retrieval.index import IndexKind, check_kind
from retrieval.scenario import Scenario


@dataclass
class RAFDecodingConfig(DecodingConfig):
    """How candidates are found and weighed.

    Attributes:
        index: kind of index, a name in :data:`retrieval.index.KINDS`; all but ``flat`` are for large banks.
        num_retrieved: scenarios retrieved and filled for each utterance, at most.
        scenario_margin: scenarios whose log-probability is further than this behind the likeliest one's are not filled,
            and filled ones whose log-probability under the span pointer's decoder is further than this behind the best
            are dropped.
        fill_weight: weight of the log-probability of a scenario's spans, relative to the scenario's own.
        compose_weight: weight of the span pointer's log-probability of the whole frame. 0 leaves the span pointer out, as in the
            paper: no frame outside of the bank is composed. With ``num_rescored``, the rescorer scores candidates too, and
            alone at a ``rescoring_weight`` of 1, which is faster.
        out_of_bank_score: score of a composed frame outside of the bank in place of the scores of retrieval and filling.

    Raises:
        ValueError: a value is out of range.
    """

    index: IndexKind = "flat"
    num_retrieved: int = 8
    scenario_margin: float = 6.0
    fill_weight: float = 1.0
    compose_weight: float = 1.0
    out_of_bank_score: float = -4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # Bundles' manifests and `--decoding` give plain text, which no type checker has seen.
        check_kind(self.index)


@dataclass
class Candidate:
    """A frame and its scores; a score is a log-probability, None where the module cannot give one.

    Attributes:
        tokens: the frame in the span form.
        origin: ``bank``, a scenario filled; or ``composed`` by the span pointer.
        scenario: the frame's.
        retrieval_score: of the scenario among the retrieved ones.
        fill_score: of the spans, given the scenario.
        decoder_score: of the frame under the span pointer's decoder.
        rescorer_score: of the frame under the span pointer's rescorer.
        score: the weighted sum (:func:`weigh`).
    """

    tokens: list[Token]
    origin: Literal["bank", "composed"]
    scenario: Scenario
    retrieval_score: float | None = None
    fill_score: float | None = None
    decoder_score: float | None = None
    rescorer_score: float | None = None
    score: float = NEVER

    def to_trace(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "scenario": self.scenario.text}


class CandidateScores(NamedTuple):
    """Scores of candidates as arrays of one shape, NaN where a module gives none; see :class:`Candidate`."""

    retrieval: np.ndarray
    fill: np.ndarray
    decoder: np.ndarray
    rescorer: np.ndarray

    @classmethod
    def from_candidates(cls, candidates: Sequence[Sequence[Candidate]]) -> CandidateScores:
        """Scores ``[rows, widest]`` of rows of candidates; NaN after the last one of a row."""
        width = max((len(row) for row in candidates), default=0)
        scores = cls(*(np.full((len(candidates), width), np.nan) for _ in cls._fields))
        for i, row in enumerate(candidates):
            for j, candidate in enumerate(row):
                for name, array in zip(cls._fields, scores, strict=True):
                    value = getattr(candidate, f"{name}_score")
                    array[i, j] = np.nan if value is None else value
        return scores


def weigh(scores: CandidateScores, config: RAFDecodingConfig) -> np.ndarray:
    """The weighted sum of the scores of each candidate, of the arrays' shape.

    A candidate outside of the bank gets ``out_of_bank_score`` in place of the scores of retrieval and filling. A candidate with
    labels that the span pointer does not know gets the scores of retrieval and filling in place of the span pointer's.
    """
    banked = retrieval_and_filling(scores, config)
    banked = np.where(np.isnan(banked), config.out_of_bank_score, banked)
    composed = composition(scores, config)
    return banked + config.compose_weight * np.where(np.isnan(composed), banked, composed)


def retrieval_and_filling(scores: CandidateScores, config: RAFDecodingConfig) -> np.ndarray:
    """The bank's score of each candidate, NaN outside of the bank."""
    return scores.retrieval + config.fill_weight * scores.fill


def composition(scores: CandidateScores, config: RAFDecodingConfig) -> np.ndarray:
    """The span pointer's score of each candidate: decoder and rescorer mixed, or the one of them that gives a score.

    NaN where neither does.
    """
    share = config.rescoring_weight
    mixed = (1 - share) * scores.decoder + share * scores.rescorer
    either = np.where(np.isnan(scores.decoder), scores.rescorer, scores.decoder)
    return np.where(np.isnan(mixed), either, mixed)
