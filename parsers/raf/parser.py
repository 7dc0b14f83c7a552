"""Parsing by retrieving and filling, with a way out of the bank.

Every utterance gets candidates of two origins: scenarios of the bank, filled; and frames that the span pointer
composes. Each candidate is judged by the retrieval, the filling and the composing module alike, so that a frame that
all of them find likely wins over one that only its own module does. The weights of the three, and what a frame outside
of the bank gets in place of a retrieval score, are calibrated on eval rows (:mod:`parsers.raf.calibration`).

Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from frames.errors import FrameError, one_of
from frames.frame import Frame
from frames.linearization import CLOSE, TEXT, Token
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer, Source
from parsers.constrained import LengthCandidate
from parsers.groups import in_groups
from parsers.interface import Hypothesis
from parsers.nar import Backend, DecodingConfig, Encoded, NonAutoregressiveParser
from parsers.raf.filling import NEVER, best_spans
from retrieval.bank import ScenarioBank
from retrieval.index import KINDS, ScenarioIndex
from retrieval.scenario import Scenario


@dataclass
class RAFDecodingConfig(DecodingConfig):
    """How candidates are found and weighed.

    Attributes:
        index: how scenarios are searched, a name in :data:`retrieval.index.KINDS`; all but ``flat`` are for large banks.
        scenarios: scenarios retrieved and filled for each utterance, at most.
        scenario_margin: scenarios whose log-probability is further than this behind the likeliest one's are not filled,
            and filled ones that the span pointer's decoder finds so much less likely than its best are not looked at
            further.
        compositions: frames that the span pointer adds, at most; 0 never leaves the bank, which is the paper's way. Those
            further than ``rescoring_margin`` behind its best are left out.
        retrieval_weight: of a scenario's log-probability among those retrieved.
        fill_weight: of the log-probability of its spans.
        compose_weight: of the span pointer's log-probability of the same frame; 0 leaves it out. With ``rescored``, its
            rescorer judges candidates too, and at a ``rescoring_weight`` of 1 it alone, which is faster.
        leave_score: what a composed frame outside of the bank gets in place of the first two.
    """

    index: str = "flat"
    scenarios: int = 8
    scenario_margin: float = 6.0
    compositions: int = 4
    retrieval_weight: float = 1.0
    fill_weight: float = 1.0
    compose_weight: float = 1.0
    leave_score: float = -4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("index", self.index, KINDS)
        if self.scenarios < 1 or self.compositions < 0:
            raise ValueError(
                f"scenarios {self.scenarios} must be at least 1, compositions {self.compositions} at least 0"
            )
        if self.compositions and not self.compose_weight:
            raise ValueError("compositions are judged by the span pointer: give compose_weight, or compositions: 0")


class RAFBackend(Backend, Protocol):
    """A model's parts, on numpy arrays."""

    def query(self, memory: Any, mask: np.ndarray) -> np.ndarray:
        """Encoder states and mask ``[B, S]`` to vectors ``[B, D]``."""
        ...

    def fill(self, encoded: Encoded, rows: np.ndarray, places: np.ndarray, table: ScenarioTable) -> np.ndarray:
        """Scores the spans ``[N, L, S, S]`` of the scenarios at ``places [N]`` over the utterances ``rows [N]``."""
        ...


class LeafRows:
    """Where the leaves of each scenario stand in a table that holds those of all, one scenario after another.

    Args:
        counts: leaves of each scenario ``[N]``.
    """

    def __init__(self, counts: np.ndarray) -> None:
        self.counts = counts
        self._ends = counts.cumsum()

    def of(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows ``[N, L]`` of the scenarios at these places, and mask ``[N, L]``, True at leaves; ``L`` is at least 1."""
        counts = self.counts[places]
        steps = np.arange(max(1, int(counts.max())))
        rows = (self._ends[places] - counts)[:, None] + steps[None, :]
        return np.minimum(rows, max(0, int(self._ends[-1]) - 1)), steps[None, :] < counts[:, None]


class ScenarioTable:
    """What an encoder has made of a bank.

    Args:
        bank: the scenarios.
        index: their vectors.
        scale: factor of inner products.
        leaves: states of all leaves of all scenarios, in the order of the bank, ``[leaves, W]``.
    """

    def __init__(self, bank: ScenarioBank, index: ScenarioIndex, scale: float, leaves: np.ndarray) -> None:
        self.bank, self.index, self.scale, self.leaves = bank, index, scale, leaves
        self.rows = LeafRows(np.array([scenario.leaves for scenario in bank], dtype=np.int64))

    def added(self, new: ScenarioBank, vectors: np.ndarray, leaves: np.ndarray) -> ScenarioTable:
        """This table and further scenarios.

        Args:
            new: scenarios that the bank does not have.
            vectors: ``[N, D]``, of the encoder that made the others.
            leaves: states of their leaves ``[leaves, W]``.
        """
        bank = self.bank.added(new)
        index = self.index.added(vectors, bank.digest)
        return ScenarioTable(bank, index, self.scale, np.concatenate((self.leaves, leaves.astype(self.leaves.dtype))))

    def removed(self, scenario: Scenario) -> ScenarioTable:
        """This table without a scenario.

        Raises:
            UsageError: the bank does not have it, or the index can't forget it.
        """
        bank, place = self.bank.removed(scenario), self.bank.id(scenario)
        assert place is not None
        leaves = np.delete(self.leaves, self.rows.of(np.array([place]))[0][0, : scenario.leaves], axis=0)
        return ScenarioTable(bank, self.index.removed(place, bank.digest), self.scale, leaves)

    def of(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Leaf states ``[N, L, W]`` and mask ``[N, L]`` of the scenarios at these places, ``L`` at least 1."""
        rows, mask = self.rows.of(places)
        return self.leaves[rows].astype(np.float32, copy=False), mask


@dataclass
class Candidate:
    """One frame and what speaks for it; log-probabilities are None where a module can't tell.

    Attributes:
        tokens: the frame in the span form.
        origin: ``bank`` or ``composed``.
        scenario: its scenario.
        retrieval: of the scenario among those retrieved.
        fill: of the spans in the scenario.
        composed: of the frame under the span pointer's decoder.
        judged: of the frame under its rescorer.
        score: the weighted sum.
    """

    tokens: list[Token]
    origin: str
    scenario: Scenario
    retrieval: float | None = None
    fill: float | None = None
    composed: float | None = None
    judged: float | None = None
    score: float = NEVER


class RAFParser(NonAutoregressiveParser):
    """Implements :class:`parsers.interface.Parser` by retrieval, filling and composition.

    Args:
        backend: the model.
        tokenizer: cuts utterances.
        ontology: labels and nesting of what can be composed; scenarios of the bank may have others.
        table: the bank as the model's encoder reads it.
        config: how to decode.
    """

    backend: RAFBackend
    config: RAFDecodingConfig

    def __init__(
        self,
        backend: RAFBackend,
        tokenizer: PieceTokenizer,
        ontology: Ontology,
        table: ScenarioTable,
        config: RAFDecodingConfig,
    ) -> None:
        super().__init__(backend, tokenizer, ontology, "span", config)
        self._composable = ontology
        self.use(table)

    def use(self, table: ScenarioTable) -> None:
        """Retrieves from this table from now on; its scenarios may have labels that cannot be composed."""
        self.table = table
        added = [Frame.parse(str(scenario)) for scenario in table.bank if not table.bank.count(scenario)]
        self.ontology = self._composable.merged(Ontology.from_frames(added)) if added else self._composable

    def _parse(self, sources: list[Source], n_best: int) -> Iterator[list[Hypothesis]]:
        for source, candidates in zip(sources, self._candidates(sources, n_best), strict=True):
            for candidate in candidates:
                candidate.score = weigh(candidate, self.config)
            candidates.sort(key=lambda candidate: -candidate.score)
            trace = {"pieces": source.pieces, "candidates": [_to_trace(candidate) for candidate in candidates]}
            yield [
                Hypothesis(
                    self.form.decode(candidate.tokens, source), candidate.score, {"tokens": candidate.tokens, **trace}
                )
                for candidate in candidates[: 1 if n_best == 1 else None]
            ]

    def vectors(self, utterances: Sequence[str]) -> np.ndarray:
        """What scenarios are retrieved by, ``[B, D]``."""
        encoded = self._encode(self.tokenizer.batch(list(utterances)))
        return self.backend.query(encoded.memory, encoded.mask)

    def retrieved(self, sources: list[Source], scenarios: int) -> list[np.ndarray]:
        """Places in the bank of the likeliest scenarios of each utterance, best first."""

        def work(group: list[Source]) -> list[np.ndarray]:
            encoded = self._encode(group)
            return list(self.table.index.search(self.backend.query(encoded.memory, encoded.mask), scenarios)[1])

        return in_groups(sources, work, self.workers)

    def filled(self, sources: list[Source], places: Sequence[int]) -> list[Candidate]:
        """Each utterance in the scenario at the place given for it; all are read together."""
        chosen = [{place: 0.0} for place in places]
        return [row[0] for row in self._filled(self._encode(sources), chosen, [[] for _ in sources])]

    def candidates(self, sources: list[Source]) -> list[list[Candidate]]:
        """The candidates of each utterance, at least one, not weighed yet."""
        return in_groups(sources, self._candidates, self.workers)

    def _candidates(self, sources: list[Source], n_best: int = 1) -> list[list[Candidate]]:
        encoded = self._encode(sources)
        # Who asks for several frames wants to see what else was thought of.
        return_all = n_best > 1
        composed, scored = self._composed(encoded, math.inf if return_all else self.config.rescoring_margin)
        scores, places = self.table.index.search(
            self.backend.query(encoded.memory, encoded.mask), self.config.scenarios
        )
        found = scores * self.table.scale
        log_probs = found - np.log(np.exp(found - found[:, :1]).sum(axis=1, keepdims=True)) - found[:, :1]
        near = (places >= 0) & (return_all | (log_probs >= log_probs[:, :1] - self.config.scenario_margin))
        chosen: list[dict[int, float]] = [
            dict(zip(places[row, near[row]].tolist(), log_probs[row, near[row]].tolist(), strict=True))
            for row in range(len(sources))
        ]
        for row, frames in enumerate(composed):
            for candidate in frames:
                place = self.table.bank.id(candidate.scenario)
                if place is not None and place not in chosen[row]:
                    # If it was not even retrieved, how much less likely it is than the last the index does not tell.
                    at = np.flatnonzero(places[row] == place)
                    chosen[row][place] = float(log_probs[row, at[0] if len(at) else -1])
        filled = self._filled(encoded, chosen, composed)
        return self._score_candidates(encoded, filled, scored, math.inf if return_all else self.config.scenario_margin)

    def _composed(
        self, encoded: Encoded, margin: float
    ) -> tuple[list[list[Candidate]], list[dict[int, LengthCandidate]]]:
        """Frames of the span pointer within the margin, best first, and the scores of the lengths that it looked at."""
        if not self.config.compositions:
            return [[] for _ in encoded.sources], [{} for _ in encoded.sources]
        ranked, prior = self._lengths(encoded)
        decoded, scored = self._search(encoded, ranked, prior, self.config.compositions, margin)
        frames = [
            [
                Candidate(tokens, "composed", template(tokens), composed=d.score)
                for d in row
                for tokens in [self.ids.decode(d.ids)]
            ]
            for row in decoded
        ]
        # The likeliest lengths were looked at, more of them for some rows than for others.
        return frames, [dict(zip(row.tolist(), known, strict=False)) for row, known in zip(ranked, scored, strict=True)]

    def _filled(
        self, encoded: Encoded, chosen: list[dict[int, float]], composed: list[list[Candidate]]
    ) -> list[list[Candidate]]:
        """All candidates with the scores of retrieval and filling."""
        rows = np.repeat(np.arange(len(chosen)), [len(row) for row in chosen])
        places = np.array([place for row in chosen for place in row], dtype=np.int64)
        scores = self.backend.fill(encoded, rows, places, self.table)
        firsts = np.zeros(encoded.mask.shape, dtype=bool)
        lasts = np.zeros(encoded.mask.shape, dtype=bool)
        for row, source in enumerate(encoded.sources):
            edges = source.edges
            firsts[row, list(edges.firsts)] = lasts[row, list(edges.lasts)] = True
        spans, totals = best_spans(scores, self.table.rows.counts[places], firsts[rows], lasts[rows])
        filled: list[list[Candidate]] = [[] for _ in chosen]
        at = {(row, place): k for k, (row, place) in enumerate(zip(rows.tolist(), places.tolist(), strict=True))}
        for (row, place), k in at.items():
            scenario = self.table.bank[place]
            if totals[k] > NEVER / 2:
                tokens = scenario.fill([tuple(span) for span in spans[k, : scenario.leaves].tolist()])
                filled[row].append(Candidate(tokens, "bank", scenario, chosen[row][place], float(totals[k])))
        for row, frames in enumerate(composed):
            if not filled[row] and not frames:
                # Too few words for every scenario: the likeliest one's intent by itself.
                likeliest = self.table.bank[max(chosen[row], key=chosen[row].__getitem__)]
                bare = Scenario((likeliest.tokens[0], CLOSE))
                filled[row].append(Candidate(list(bare.tokens), "bank", bare, min(chosen[row].values()), 0.0))
            known = {tuple(candidate.tokens): candidate for candidate in filled[row]}
            for candidate in frames:
                twin = known.get(tuple(candidate.tokens))
                if twin is not None:
                    twin.composed = candidate.composed
                    continue
                found = self.table.bank.id(candidate.scenario)
                if found is not None:
                    candidate.retrieval = chosen[row][found]
                    candidate.fill = _spans_score(scores[at[row, found]], candidate.tokens)
                filled[row].append(candidate)
        return filled

    def _score_candidates(
        self, encoded: Encoded, filled: list[list[Candidate]], scored: list[dict[int, LengthCandidate]], margin: float
    ) -> list[list[Candidate]]:
        """Adds what the span pointer, and its rescorer, think of the candidates that have labels known to them.

        Args:
            encoded: the rows.
            filled: their candidates; a lone one needs no judge.
            scored: of each row, the lengths that the decoder has scored so far.
            margin: how far behind the decoder's best a candidate may be.

        Returns:
            The candidates within the margin, and those with labels that the span pointer was not trained on.
        """
        c = self.config
        if not c.compose_weight:
            return filled
        longest = encoded.priors.shape[1] - 1
        known: list[tuple[Candidate, int, list[int]]] = []
        for row, candidates in enumerate(filled):
            for candidate in candidates if len(candidates) > 1 else []:
                if len(candidate.tokens) <= longest:
                    try:
                        known.append((candidate, row, self.ids.encode(candidate.tokens)))
                    except FrameError:
                        continue
        if not (c.rescored and c.rescoring_weight == 1):
            unknown = [entry for entry in known if entry[0].composed is None]
            self._compose(encoded, unknown, scored, _floors(filled, margin))
            floors = _floors(filled, margin)
            filled = [
                [x for x in candidates if x.composed is None or x.composed >= floor]
                for candidates, floor in zip(filled, floors, strict=True)
            ]
            known = [
                (candidate, row, ids)
                for candidate, row, ids in known
                if len(filled[row]) > 1 and candidate.composed is not None and candidate.composed >= floors[row]
            ]
        if c.rescored:
            judged = self._rescore(encoded, [(row, ids) for _, row, ids in known])
            for (candidate, _, _), score in zip(known, judged, strict=True):
                candidate.judged = score
        return filled

    def _compose(
        self,
        encoded: Encoded,
        candidates: list[tuple[Candidate, int, list[int]]],
        scored: list[dict[int, LengthCandidate]],
        floors: list[float],
    ) -> None:
        """The decoder's log-probability of candidates of rows, spelled by ids; those of one length share a pass.

        A candidate whose length alone is below the floor of its row gets the length's, which is an upper bound.
        """
        priors = encoded.priors * self.config.length_weight
        wanted = dict.fromkeys(
            (row, len(ids))
            for _, row, ids in candidates
            if len(ids) not in scored[row] and priors[row, len(ids)] >= floors[row]
        )
        if wanted:
            rows, lengths = (np.array(column, dtype=np.int64) for column in zip(*wanted, strict=True))
            for (row, length), table in zip(wanted, self._tables(encoded, rows, lengths), strict=True):
                scored[row][length] = LengthCandidate(float(priors[row, length]), table)
        for candidate, row, ids in candidates:
            candidate.composed = float(priors[row, len(ids)])
            if (like := scored[row].get(len(ids))) is not None:
                candidate.composed += sum(like.scores[i][token] for i, token in enumerate(ids))


def weigh(candidate: Candidate, config: RAFDecodingConfig) -> float:
    """The weighted sum of what speaks for a candidate."""
    c = config
    if candidate.retrieval is None or candidate.fill is None:
        own = c.leave_score
    else:
        own = c.retrieval_weight * candidate.retrieval + c.fill_weight * candidate.fill
    composed = composition(candidate, c)
    # Where the span pointer does not know the labels, retrieval and filling speak for it as well.
    return own + c.compose_weight * (own if composed is None else composed)


def composition(candidate: Candidate, config: RAFDecodingConfig) -> float | None:
    """What decoder and rescorer of the span pointer together think of a candidate, or the one of them that was asked."""
    decoder, rescorer = candidate.composed, candidate.judged
    if decoder is None or rescorer is None:
        return decoder if rescorer is None else rescorer
    return (1 - config.rescoring_weight) * decoder + config.rescoring_weight * rescorer


def _floors(filled: list[list[Candidate]], margin: float) -> list[float]:
    """For each row the margin below what its likeliest candidate has, of those that the decoder was asked for so far."""
    composed = [[c.composed for c in candidates if c.composed is not None] for candidates in filled]
    return [max(scores, default=-math.inf) - margin for scores in composed]


def template(tokens: Sequence[Token]) -> Scenario:
    """The scenario of a frame in the span form: every pair of pointers a star."""
    marked = [TEXT if isinstance(token, int) else token for token in tokens]
    pointers = 0
    kept = []
    for token in marked:
        pointers = pointers + 1 if token == TEXT else 0
        if token != TEXT or pointers % 2:
            kept.append(token)
    return Scenario(tuple(kept))


def _spans_score(scores: np.ndarray, tokens: Sequence[Token]) -> float:
    """Summed log-probability ``[L, S, S]`` of the spans that the tokens hold."""
    pointers = [token for token in tokens if isinstance(token, int)]
    pairs = zip(pointers[::2], pointers[1::2], strict=True)
    return float(sum(scores[leaf, first, last] for leaf, (first, last) in enumerate(pairs)))


def _to_trace(candidate: Candidate) -> dict[str, Any]:
    """A candidate as plain values."""
    return {**vars(candidate), "scenario": candidate.scenario.text}
