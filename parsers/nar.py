"""Parsing with a non-autoregressive model: length beam, joint scoring, constrained decoding.

The arithmetic is behind :class:`Backend`; torch implements it for checkpoints and onnxruntime for bundles, so
both parse by the very same code. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from frames.errors import FrameError
from frames.linearization import POINTER_FORMS, TargetIds
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer, Source
from parsers.bounds import check_bounds
from parsers.confidence import ProbabilityEstimator, Reading, pooled
from parsers.constrained import Decoded, Grammar, LengthCandidate, decode, greedy
from parsers.groups import SIZE, in_groups, pad
from parsers.interface import Hypothesis, answer_first, check_request

#: Input id of a target position whose token the decoder does not see.
MASKED = -1


@dataclass
class DecodingConfig:
    """How scores become frames.

    Attributes:
        length_beam: lengths that compete (the paper uses 1, 3 or 5).
        constrained: search among well-formed frames; False takes the best token of every position.
        num_rescored: frames of each utterance, best first, that the rescorer scores; 0 for a model without one.
        rescoring_weight: share of the rescorer's log-probability in a frame's score, the rest being the decoder's.
        rescoring_margin: frames whose log-probability is further than this behind the best are not rescored, so that an
            utterance with one likely frame costs no second pass.
    """

    length_beam: int = 5
    constrained: bool = True
    num_rescored: int = 0
    rescoring_weight: float = 0.5
    rescoring_margin: float = 2.0

    def __post_init__(self) -> None:
        if self.num_rescored and not self.constrained:
            raise ValueError("rescored frames come from the search among well-formed ones: give constrained: true")
        check_bounds(self)


class Backend(Protocol):
    """A model's two halves, on numpy arrays."""

    def encode(self, pieces: np.ndarray, mask: np.ndarray) -> tuple[Any, np.ndarray]:
        """``[B, S]`` ids and mask to encoder states (of the backend's own type) and ``[B, C]`` length log-probabilities."""
        ...

    def decode(self, encoded: Encoded, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Scores targets ``[N, T]`` (of ``lengths [N]``) over the utterances ``rows [N]`` of the batch: ``[N, T, V + S]``."""
        ...

    def rescore(self, encoded: Encoded, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """As :meth:`decode`, for whole targets: ``[N]`` log-probabilities."""
        ...


@dataclass(frozen=True)
class Encoded:
    """A batch of utterances that the encoder has read.

    Attributes:
        sources: the utterances.
        pieces: ids ``[B, S]``.
        mask: ``[B, S]``, True at pieces.
        memory: encoder states, of the backend's own type.
        priors: ``[B, C]`` log-probabilities of lengths.
    """

    sources: list[Source]
    pieces: np.ndarray
    mask: np.ndarray
    memory: Any
    priors: np.ndarray


class NonAutoregressiveParser:
    """Implements :class:`parsers.interface.Parser` over a backend.

    Args:
        backend: the model.
        tokenizer: cuts utterances.
        ontology: labels and nesting.
        form: name in :data:`frames.linearization.POINTER_FORMS`.
        config: how to decode.

    Attributes:
        workers: threads that parse groups of utterances side by side, where the backend's arithmetic leaves the
            interpreter to others; one thread for each group costs less than many for each matrix.
        group_size: utterances of a group at most.
        confidence: gives hypotheses their probabilities; None from a parser that is not calibrated.
    """

    workers = 1
    group_size = SIZE
    confidence: ProbabilityEstimator | None = None

    def __init__(
        self, backend: Backend, tokenizer: PieceTokenizer, ontology: Ontology, form: str, config: DecodingConfig
    ) -> None:
        self.backend, self.tokenizer, self.ontology, self.config = backend, tokenizer, ontology, config
        self.form = POINTER_FORMS[form]()
        self.ids = TargetIds(ontology)
        self.grammar = Grammar(ontology, form)

    def parse(self, utterances: Sequence[str], n_best: int = 1) -> list[list[Hypothesis]]:
        """See :class:`parsers.interface.Parser`."""
        sources = self.tokenizer.batch(check_request(utterances, n_best))
        best = in_groups(sources, lambda group: list(self._parse(group, 1)), self.workers, self.group_size)
        if n_best == 1:
            return best
        several = in_groups(sources, lambda group: list(self._parse(group, n_best)), self.workers, self.group_size)
        return [self._ranked(first, found)[:n_best] for (first,), found in zip(best, several, strict=True)]

    def _ranked(self, first: Hypothesis, found: list[Hypothesis]) -> list[Hypothesis]:
        """Hypotheses found without margins, with the answer that is given when it is alone before all others."""
        same, *others = answer_first(first, found)
        if self.confidence is None or first.probability is None:
            return [same, *others]
        readings = [Reading(other.trace["tokens"], None, other.score, None) for other in others]
        probabilities = self.confidence.of_others(first.probability, readings)
        return [
            replace(same, probability=first.probability, slots=first.slots),
            *(
                replace(other, probability=probability, slots=slots)
                for other, (probability, slots) in zip(others, probabilities, strict=True)
            ),
        ]

    def _parse(self, sources: list[Source], n_best: int) -> Iterator[list[Hypothesis]]:
        """The likeliest frame of each utterance, or where several are wanted all that were looked at, best first."""
        encoded = self._encode(sources)
        ranked, prior = self._lengths(encoded)
        wanted = max(n_best, self.config.num_rescored)
        margin = math.inf if n_best > 1 else self.config.rescoring_margin if self.config.num_rescored else 0.0
        found, candidates = self._search(encoded, ranked, prior, wanted, margin)
        if self.config.num_rescored:
            found = self._rescored(encoded, found)
        if n_best > 1:
            for row, decoded in enumerate(found):
                yield [self._hypothesis(d, sources[row], ranked[row], prior[row]) for d in decoded]
            return
        hypotheses = [self._hypothesis(d[0], sources[row], ranked[row], prior[row]) for row, d in enumerate(found)]
        readings = (
            Reading(
                hypothesis.trace["tokens"],
                token_scores(of_row[decoded[0].candidate], decoded[0].ids),
                hypothesis.score,
                decoded[1].score if len(decoded) > 1 else None,
            )
            for hypothesis, of_row, decoded in zip(hypotheses, candidates, found, strict=True)
        )
        yield from ([hypothesis] for hypothesis in self._with_probabilities(encoded, hypotheses, readings))

    def _with_probabilities(
        self, encoded: Encoded, best: list[Hypothesis], readings: Iterable[Reading]
    ) -> list[Hypothesis]:
        """The best hypothesis of each row with its probability, where the parser is calibrated; others make no reading."""
        if self.confidence is None:
            return best
        states = pooled(np.asarray(encoded.memory), encoded.mask)
        lengths = encoded.priors[:, 1:].max(axis=1)
        probabilities = self.confidence.probabilities(encoded.sources, states, lengths, list(readings))
        return [
            replace(hypothesis, probability=probability, slots=slots)
            for hypothesis, (probability, slots) in zip(best, probabilities, strict=True)
        ]

    def _encode(self, sources: list[Source]) -> Encoded:
        pieces, mask = pad(sources, self.tokenizer.pad_id)
        return Encoded(sources, pieces, mask, *self.backend.encode(pieces, mask))

    def _lengths(self, encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
        """The length beam of each row ``[B, beam]``, and the weighted log-probabilities of these lengths."""
        priors = encoded.priors
        # Length 0 spells nothing, so its class does not compete.
        ranked = np.argsort(-priors[:, 1:], axis=1, kind="stable")[:, : self.config.length_beam] + 1
        return ranked, np.take_along_axis(priors, ranked, axis=1)

    def _tables(self, encoded: Encoded, rows: np.ndarray, lengths: np.ndarray) -> Iterator[list[list[float]]]:
        """Scores ``[length][size + pieces]`` of the positions of targets of these lengths over these rows."""
        masked = np.full((len(lengths), int(lengths.max())), MASKED, dtype=np.int64)
        scores = self.backend.decode(encoded, rows, masked, lengths)
        for k, (row, length) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):
            yield scores[k, :length, : self.ids.size + len(encoded.sources[row])].tolist()

    def _search(
        self, encoded: Encoded, ranked: np.ndarray, prior: np.ndarray, wanted: int, margin: float
    ) -> tuple[list[list[Decoded]], list[list[LengthCandidate]]]:
        """The best sequences of each row over its length beam.

        Args:
            encoded: the rows.
            ranked: their length beams ``[B, beam]``.
            prior: weighted log-probabilities of these lengths.
            wanted: at most so many sequences of each row.
            margin: how far behind the best a sequence may be.

        Returns:
            The sequences of each row, at least one, best first; and the lengths of its beam that had to be scored.
        """
        sources, beam = encoded.sources, ranked.shape[1]
        candidates: list[list[LengthCandidate]] = [[] for _ in sources]

        def score(rows: np.ndarray, counts: np.ndarray) -> None:
            """Scores the next lengths of these rows, so many of each."""
            flat_rows = np.repeat(rows, counts)
            columns = [len(candidates[row]) + k for row, count in zip(rows, counts, strict=True) for k in range(count)]
            tables = self._tables(encoded, flat_rows, ranked[flat_rows, columns])
            for row, column, table in zip(flat_rows.tolist(), columns, tables, strict=True):
                candidates[row].append(LengthCandidate(float(prior[row, column]), table))

        all_rows = np.arange(len(sources))
        wide = math.isinf(margin)
        score(all_rows, np.full(len(sources), beam if wide else 1))
        found = [self._best(candidates[row], sources[row], wanted, margin) for row in all_rows]
        if not wide and beam > 1:
            # No token has a log-probability above 0, so no frame of a length is likelier than the length.
            scores = np.array([best[0].score for best in found])
            rivals = (prior[:, 1:beam] > scores[:, None] - margin).sum(axis=1)
            behind = np.flatnonzero(rivals)
            if len(behind):
                score(behind, rivals[behind])
                for row in behind.tolist():
                    found[row] = self._best(candidates[row], sources[row], wanted, margin)
        return found, candidates

    def _best(self, candidates: list[LengthCandidate], source: Source, wanted: int, margin: float) -> list[Decoded]:
        if not self.config.constrained:
            return [greedy(candidates)]
        found: list[Decoded] = []
        for decoded in decode(self.grammar, candidates, source.edges):
            if found and decoded.score < found[0].score - margin:
                break
            found.append(decoded)
            if len(found) == wanted:
                break
        return found

    def _rescored(self, encoded: Encoded, found: list[list[Decoded]]) -> list[list[Decoded]]:
        """The sequences of each row in the order of decoder and rescorer together. Rows with a single one are not rescored."""
        rivals = [(row, decoded) for row, several in enumerate(found) if len(several) > 1 for decoded in several]
        together: list[list[Decoded]] = [[] if len(several) > 1 else several for several in found]
        scores = self._rescore(encoded, [(row, decoded.ids) for row, decoded in rivals])
        weight = self.config.rescoring_weight
        for (row, decoded), score in zip(rivals, scores, strict=True):
            together[row].append(replace(decoded, score=(1 - weight) * decoded.score + weight * score))
        return [sorted(several, key=lambda decoded: -decoded.score) for several in together]

    def _rescore(self, encoded: Encoded, frames: Sequence[tuple[int, Sequence[int]]]) -> list[float]:
        """The rescorer's log-probability of frames, given as row and ids."""
        if not frames:
            return []
        lengths = np.array([len(ids) for _, ids in frames])
        tokens = np.zeros((len(frames), int(lengths.max())), dtype=np.int64)
        for place, (_, ids) in enumerate(frames):
            tokens[place, : len(ids)] = ids
        return self.backend.rescore(encoded, np.array([row for row, _ in frames]), tokens, lengths).tolist()

    def _hypothesis(self, decoded: Decoded, source: Source, lengths: np.ndarray, priors: np.ndarray) -> Hypothesis:
        tokens = self.ids.decode(decoded.ids)
        trace = {
            "tokens": tokens,
            "pieces": source.pieces,
            "lengths": [[int(length), float(prior)] for length, prior in zip(lengths, priors, strict=True)],
        }
        try:
            frame = self.form.decode(tokens, source)
        except FrameError:
            if self.config.constrained:
                raise
            frame = None
        return Hypothesis(frame, decoded.score, trace)


def token_scores(length: LengthCandidate, ids: Sequence[int]) -> list[float]:
    """Log-probability of each token of a target of this length."""
    return [length.scores[i][token] for i, token in enumerate(ids)]
