"""Parsing by retrieving and filling scenarios, beside a span pointer that composes frames outside of the bank.

Every utterance gets candidates of two origins: scenarios of the bank, filled; and frames that the span pointer
composes. The retrieval, the filling and the composing module score every candidate, so that a frame that all of them find
likely wins over one that only its own module does. The weights of the three, and the score that a frame outside of the
bank gets in place of a retrieval score, are calibrated on eval rows (:mod:`parsers.raf.calibration`).

Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from frames.errors import FrameError
from frames.frame import Frame
from frames.linearization import CLOSE, TEXT, Token
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer, Source
from parsers.confidence import Reading
from parsers.constrained import LengthCandidate
from parsers.groups import in_groups
from parsers.interface import Hypothesis
from parsers.nar import Backend, Encoded, NonAutoregressiveParser, token_scores
from parsers.raf.candidate import Candidate, CandidateScores, RAFDecodingConfig, weigh
from parsers.raf.filling import NEVER, best_spans
from retrieval.scenario import Scenario
from retrieval.table import ScenarioTable


class RAFBackend(Backend, Protocol):
    """A model's parts, on numpy arrays."""

    def query(self, memory: Any, mask: np.ndarray) -> np.ndarray:
        """Encoder states and mask ``[B, S]`` to vectors ``[B, D]``."""
        ...

    def fill(self, encoded: Encoded, rows: np.ndarray, scenario_ids: np.ndarray, table: ScenarioTable) -> np.ndarray:
        """Log-probabilities of the spans ``[N, L, S, S]`` of scenarios over utterances.

        Args:
            encoded: a batch of utterances.
            rows: ``[N]`` utterances of the batch.
            scenario_ids: ``[N]`` a scenario for each of them, as positions in the bank.
            table: the bank.
        """
        ...


#: Frames that the span pointer composes for an utterance, at most.
NUM_COMPOSED = 4
#: Log-probability of scenarios by their ids, for one utterance.
Retrieved = dict[int, float]


class KnownCandidate(NamedTuple):
    """A candidate whose labels the span pointer knows: its row in the batch, and its target ids."""

    candidate: Candidate
    row: int
    ids: list[int]


class Found(NamedTuple):
    """The candidates of each row of a batch, and the lengths of targets that the decoder has scored for it."""

    encoded: Encoded
    candidates: list[list[Candidate]]
    scored_lengths: list[dict[int, LengthCandidate]]


class RAFParser(NonAutoregressiveParser):
    """Implements :class:`parsers.interface.Parser` by retrieval, filling and composition.

    Args:
        backend: the model.
        tokenizer: cuts utterances.
        ontology: labels and nesting of what can be composed; scenarios of the bank may have others.
        table: the bank as the model's encoder has encoded it.
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

    def vectors(self, utterances: Sequence[str]) -> np.ndarray:
        """Vectors of utterances ``[B, D]``, to be compared with those of scenarios."""
        encoded = self._encode(self.tokenizer.batch(list(utterances)))
        return self.backend.query(encoded.memory, encoded.mask)

    def retrieved(self, sources: list[Source], scenarios: int) -> list[np.ndarray]:
        """Ids of the ``scenarios`` likeliest scenarios of each utterance, best first."""

        def search(group: list[Source]) -> list[np.ndarray]:
            encoded = self._encode(group)
            return list(self.table.index.search(self.backend.query(encoded.memory, encoded.mask), scenarios)[1])

        return in_groups(sources, search, self.workers, self.group_size)

    def filled(self, sources: list[Source], scenario_ids: Sequence[int]) -> list[Candidate]:
        """Each utterance in the scenario given for it; all utterances are one batch."""
        retrieved: list[Retrieved] = [{scenario_id: 0.0} for scenario_id in scenario_ids]
        candidates, span_scores = self._fill(self._encode(sources), retrieved)
        self._merge(candidates, [[] for _ in sources], retrieved, span_scores)
        return [row[0] for row in candidates]

    def candidates(self, sources: list[Source]) -> list[list[Candidate]]:
        """The candidates of each utterance, at least one, not weighed yet."""
        return in_groups(sources, lambda group: self._candidates(group).candidates, self.workers, self.group_size)

    def _parse(self, sources: list[Source], n_best: int) -> Iterator[list[Hypothesis]]:
        found = self._candidates(sources, n_best)
        hypotheses = []
        for source, candidates in zip(sources, found.candidates, strict=True):
            totals = weigh(CandidateScores.from_candidates([candidates]), self.config)[0]
            for candidate, total in zip(candidates, totals.tolist(), strict=True):
                candidate.score = total
            candidates.sort(key=lambda candidate: -candidate.score)
            trace = {"pieces": source.pieces, "candidates": [candidate.to_trace() for candidate in candidates]}
            hypotheses.append(
                [
                    Hypothesis(
                        self.form.decode(candidate.tokens, source),
                        candidate.score,
                        {"tokens": candidate.tokens, **trace},
                    )
                    for candidate in candidates[: 1 if n_best == 1 else None]
                ]
            )
        if n_best > 1:
            yield from hypotheses
            return
        readings = (
            Reading(
                best.tokens,
                self._token_scores(best, scored),
                best.score,
                others[0].score if others else None,
            )
            for (best, *others), scored in zip(found.candidates, found.scored_lengths, strict=True)
        )
        firsts = [first for (first,) in hypotheses]
        yield from ([hypothesis] for hypothesis in self._with_probabilities(found.encoded, firsts, readings))

    def _token_scores(self, candidate: Candidate, scored: dict[int, LengthCandidate]) -> list[float] | None:
        """Log-probability of each token under the decoder, None where it has not scored targets of that length."""
        try:
            ids = self.ids.encode(candidate.tokens)
        except FrameError:  # a label that was added to the bank
            return None
        length = scored.get(len(ids))
        return None if length is None else token_scores(length, ids)

    def _candidates(self, sources: list[Source], n_best: int = 1) -> Found:
        """The candidates of each utterance with the scores of all modules, at least one, not weighed yet.

        1. Compose the span pointer's best frames.
        2. Retrieve the likeliest scenarios of the bank; those of composed frames that the bank has join them.
        3. Fill every scenario with its best spans.
        4. Merge: a frame found both ways is one candidate.
        5. Score every candidate by the span pointer's decoder and rescorer.

        ``n_best`` above 1 ignores the margins and returns all candidates.
        """
        return_all = n_best > 1
        encoded = self._encode(sources)
        # Step 1: compose.
        composed, scored_lengths = self._compose(encoded, math.inf if return_all else self.config.rescoring_margin)
        # Step 2: retrieve.
        retrieved = self._retrieve(encoded, composed, math.inf if return_all else self.config.scenario_margin)
        # Step 3: fill.
        candidates, span_scores = self._fill(encoded, retrieved)
        # Step 4: merge.
        self._merge(candidates, composed, retrieved, span_scores)
        # Step 5: score.
        margin = math.inf if return_all else self.config.scenario_margin
        return Found(encoded, self._score_candidates(encoded, candidates, scored_lengths, margin), scored_lengths)

    def _compose(
        self, encoded: Encoded, margin: float
    ) -> tuple[list[list[Candidate]], list[dict[int, LengthCandidate]]]:
        """The span pointer's frames within the margin, best first, and the lengths that it has scored, of each row."""
        if not self.config.compose_weight:
            return [[] for _ in encoded.sources], [{} for _ in encoded.sources]
        length_beam, prior = self._lengths(encoded)
        decoded, scored = self._search(encoded, length_beam, prior, NUM_COMPOSED, margin)
        frames = [
            [
                Candidate(tokens, "composed", template(tokens), decoder_score=d.score)
                for d in row
                for tokens in [self.ids.decode(d.ids)]
            ]
            for row in decoded
        ]
        # The search scores a length beam from its likeliest length on, and no further than it has to: strict=False.
        scored_lengths = [
            dict(zip(lengths.tolist(), scores, strict=False))
            for lengths, scores in zip(length_beam, scored, strict=True)
        ]
        return frames, scored_lengths

    def _retrieve(self, encoded: Encoded, composed: list[list[Candidate]], margin: float) -> list[Retrieved]:
        """Log-probabilities of the likeliest scenarios within the margin, and of the composed frames' that the bank has."""
        query = self.backend.query(encoded.memory, encoded.mask)
        scores, scenario_ids = self.table.index.search(query, self.config.num_retrieved)
        scores = scores * self.table.scale
        log_probs = scores - np.log(np.exp(scores - scores[:, :1]).sum(axis=1, keepdims=True)) - scores[:, :1]
        near = (scenario_ids >= 0) & (log_probs >= log_probs[:, :1] - margin)
        retrieved: list[Retrieved] = [
            dict(zip(scenario_ids[row, near[row]].tolist(), log_probs[row, near[row]].tolist(), strict=True))
            for row in range(len(encoded.sources))
        ]
        for row, frames in enumerate(composed):
            for candidate in frames:
                scenario_id = self.table.bank.id(candidate.scenario)
                if scenario_id is not None and scenario_id not in retrieved[row]:
                    # A scenario that the index did not return is no likelier than the last one that it did.
                    found = np.flatnonzero(scenario_ids[row] == scenario_id)
                    retrieved[row][scenario_id] = float(log_probs[row, found[0] if len(found) else -1])
        return retrieved

    def _fill(
        self, encoded: Encoded, retrieved: list[Retrieved]
    ) -> tuple[list[list[Candidate]], dict[tuple[int, int], np.ndarray]]:
        """Candidates of each row from its scenarios, and span scores ``[L, S, S]`` by row and scenario id.

        A scenario with more leaves than the utterance has words gives no candidate.
        """
        rows = np.repeat(np.arange(len(retrieved)), [len(of_row) for of_row in retrieved])
        scenario_ids = np.array([scenario_id for of_row in retrieved for scenario_id in of_row], dtype=np.int64)
        scores = self.backend.fill(encoded, rows, scenario_ids, self.table)
        firsts = np.zeros(encoded.mask.shape, dtype=bool)
        lasts = np.zeros(encoded.mask.shape, dtype=bool)
        for row, source in enumerate(encoded.sources):
            firsts[row, list(source.edges.firsts)] = lasts[row, list(source.edges.lasts)] = True
        spans, totals = best_spans(scores, self.table.leaf_rows.counts[scenario_ids], firsts[rows], lasts[rows])
        candidates: list[list[Candidate]] = [[] for _ in retrieved]
        span_scores = {}
        for k, (row, scenario_id) in enumerate(zip(rows.tolist(), scenario_ids.tolist(), strict=True)):
            span_scores[row, scenario_id] = scores[k]
            scenario = self.table.bank[scenario_id]
            if totals[k] > NEVER / 2:
                tokens = scenario.fill([tuple(span) for span in spans[k, : scenario.leaves].tolist()])
                log_prob = retrieved[row][scenario_id]
                candidates[row].append(Candidate(tokens, "bank", scenario, log_prob, float(totals[k])))
        return candidates, span_scores

    def _merge(
        self,
        candidates: list[list[Candidate]],
        composed: list[list[Candidate]],
        retrieved: list[Retrieved],
        span_scores: dict[tuple[int, int], np.ndarray],
    ) -> None:
        """Adds composed frames to the filled candidates of each row, with their scores of retrieval and filling."""
        for row, frames in enumerate(composed):
            if not candidates[row] and not frames:
                # Too few words for every scenario: the likeliest one's intent alone.
                likeliest = self.table.bank[max(retrieved[row], key=retrieved[row].__getitem__)]
                bare = Scenario((likeliest.tokens[0], CLOSE))
                candidates[row].append(Candidate(list(bare.tokens), "bank", bare, min(retrieved[row].values()), 0.0))
            filled = {tuple(candidate.tokens): candidate for candidate in candidates[row]}
            for frame in frames:
                same = filled.get(tuple(frame.tokens))
                if same is not None:
                    same.decoder_score = frame.decoder_score
                    continue
                scenario_id = self.table.bank.id(frame.scenario)
                if scenario_id is not None:
                    frame.retrieval_score = retrieved[row][scenario_id]
                    frame.fill_score = _spans_score(span_scores[row, scenario_id], frame.tokens)
                candidates[row].append(frame)

    def _score_candidates(
        self,
        encoded: Encoded,
        candidates: list[list[Candidate]],
        scored_lengths: list[dict[int, LengthCandidate]],
        margin: float,
    ) -> list[list[Candidate]]:
        """Adds the scores of the span pointer's decoder and rescorer to candidates with labels that it knows.

        Args:
            encoded: the rows.
            candidates: of each row; a single candidate of a row is not scored.
            scored_lengths: of each row, the lengths that the decoder has scored so far.
            margin: candidates whose decoder score is further than this behind the best of their row are dropped.

        Returns:
            The candidates that are left, those with labels unknown to the span pointer among them.
        """
        c = self.config
        if not c.compose_weight:
            return candidates
        known = self._known(candidates, encoded.priors.shape[1] - 1)
        if not (c.num_rescored and c.rescoring_weight == 1):
            unscored = [entry for entry in known if entry.candidate.decoder_score is None]
            self._score_by_decoder(encoded, unscored, scored_lengths, _floors(candidates, margin))
            candidates = [
                [x for x in of_row if x.decoder_score is None or x.decoder_score >= floor]
                for of_row, floor in zip(candidates, _floors(candidates, margin), strict=True)
            ]
            known = self._known(candidates, encoded.priors.shape[1] - 1)
        if c.num_rescored:
            scores = self._rescore(encoded, [(entry.row, entry.ids) for entry in known])
            for entry, score in zip(known, scores, strict=True):
                entry.candidate.rescorer_score = score
        return candidates

    def _known(self, candidates: list[list[Candidate]], max_length: int) -> list[KnownCandidate]:
        """Candidates with labels and lengths that the span pointer knows, of rows with more than one candidate."""
        known = []
        for row, of_row in enumerate(candidates):
            for candidate in of_row if len(of_row) > 1 else []:
                if len(candidate.tokens) <= max_length:
                    try:
                        known.append(KnownCandidate(candidate, row, self.ids.encode(candidate.tokens)))
                    except FrameError:
                        continue
        return known

    def _score_by_decoder(
        self,
        encoded: Encoded,
        known: list[KnownCandidate],
        scored_lengths: list[dict[int, LengthCandidate]],
        floors: list[float],
    ) -> None:
        """Sets the decoder's log-probability of candidates; candidates of one row and length share a pass.

        A candidate whose length alone is below the floor of its row gets the length's log-probability, an upper bound.
        """
        priors = encoded.priors
        wanted = dict.fromkeys(
            (row, len(ids))
            for _, row, ids in known
            if len(ids) not in scored_lengths[row] and priors[row, len(ids)] >= floors[row]
        )
        if wanted:
            rows, lengths = (np.array(column, dtype=np.int64) for column in zip(*wanted, strict=True))
            for (row, length), scores in zip(wanted, self._tables(encoded, rows, lengths), strict=True):
                scored_lengths[row][length] = LengthCandidate(float(priors[row, length]), scores)
        for candidate, row, ids in known:
            candidate.decoder_score = float(priors[row, len(ids)])
            if (length_candidate := scored_lengths[row].get(len(ids))) is not None:
                candidate.decoder_score += sum(length_candidate.scores[i][token] for i, token in enumerate(ids))


def _floors(candidates: list[list[Candidate]], margin: float) -> list[float]:
    """For each row the decoder's best score so far less the margin, -inf where the decoder has scored none."""
    scores = [[c.decoder_score for c in of_row if c.decoder_score is not None] for of_row in candidates]
    return [max(of_row, default=-math.inf) - margin for of_row in scores]


def template(tokens: Sequence[Token]) -> Scenario:
    """The scenario of a frame in the span form: every pair of pointers becomes a star."""
    marked = [TEXT if isinstance(token, int) else token for token in tokens]
    pointers = 0
    kept = []
    for token in marked:
        pointers = pointers + 1 if token == TEXT else 0
        if token != TEXT or pointers % 2:
            kept.append(token)
    return Scenario(tuple(kept))


def _spans_score(scores: np.ndarray, tokens: Sequence[Token]) -> float:
    """Summed log-probability (of ``[L, S, S]``) of the spans in the tokens of a frame."""
    pointers = [token for token in tokens if isinstance(token, int)]
    pairs = zip(pointers[::2], pointers[1::2], strict=True)
    return float(sum(scores[leaf, first, last] for leaf, (first, last) in enumerate(pairs)))
