"""The best well-formed frame under per-position scores.

A non-autoregressive decoder scores every position by itself, so the sequence of the best tokens need not be a
frame. Here the highest-scoring sequence **among frames of the ontology** is found exactly, by A* from left to
right over all candidate lengths at once: the score so far plus, for every position to come, that position's
best score. That bound never underestimates, so the first complete sequence that leaves the queue is the best
one, and when the unconstrained best is well-formed the search goes straight to it.

Pure Python over lists, without torch.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from frames.linearization import TargetIds
from frames.ontology import Ontology
from frames.tokenization import Edges

#: Phases of a frame, named by the tokens that may follow: a slot or the close of an intent; the content of a slot; the
#: rest of a leaf; the close of a slot.
_IN_INTENT, _IN_SLOT, _IN_LEAF, _AFTER_CONTENT = range(4)
#: Steps of exact search for each frame; a trained parser exceeds them on very few utterances. If they give no frame, as
#: many steps again search the furthest positions first.
MAX_STEPS = 2_000


@dataclass(frozen=True, slots=True)
class State:
    """A point between two tokens of a linearized frame.

    Attributes:
        stack: ids of the ontology tokens still open.
        phase: what may come next.
        pointer: last piece pointed at, -1 before the first. Leaves follow the utterance and never overlap.
    """

    stack: tuple[int, ...]
    phase: int
    pointer: int


class Grammar:
    """The tokens that may follow one another in a frame of the ontology.

    Args:
        ontology: labels and nesting; only what training showed is allowed.
        leaf: ``"span"`` (two endpoints, start ≤ end) or ``"index"`` (a run of consecutive pieces).
    """

    def __init__(self, ontology: Ontology, leaf: str) -> None:
        if leaf not in ("span", "index"):
            raise ValueError(f"leaf form {leaf!r}: 'span' or 'index'")
        ids = TargetIds(ontology)
        self.size, self.leaf = ids.size, leaf
        self.close = ontology.id("]")
        self.roots = tuple(ontology.id(f"IN:{label}") for label in ontology.roots)
        #: opener id -> ids of openers that may stand directly inside it.
        self.inside: dict[int, tuple[int, ...]] = {}
        self.holds_text: dict[int, bool] = {}
        self.may_be_empty: dict[int, bool] = {}
        for label, slots in ontology.intent_slots.items():
            self.inside[ontology.id(f"IN:{label}")] = tuple(ontology.id(f"SL:{slot}") for slot in slots)
        for label, intents in ontology.slot_intents.items():
            opener = ontology.id(f"SL:{label}")
            self.inside[opener] = tuple(ontology.id(f"IN:{intent}") for intent in intents)
            self.holds_text[opener] = ontology.slot_spans[label] > 0
            self.may_be_empty[opener] = ontology.slot_empty[label] > 0
        self._ends_odd = any(self.may_be_empty.values())

    def options(self, state: State, edges: Edges) -> tuple[int, ...]:
        """Ids that may follow, whatever the length."""
        if not state.stack:
            return self.roots if state.pointer == -1 and state.phase == _IN_SLOT else ()
        top = state.stack[-1]
        if state.phase == _IN_INTENT:
            return (*self.inside[top], self.close)
        if state.phase == _IN_SLOT:
            tokens = self.inside[top] + ((self.close,) if self.may_be_empty[top] else ())
            if not self.holds_text[top]:
                return tokens
            return tokens + self._pointers(edges.firsts[bisect_right(edges.firsts, state.pointer) :])
        if state.phase == _IN_LEAF:
            lasts = edges.lasts[bisect_left(edges.lasts, state.pointer) :]
            if self.leaf == "span":
                return self._pointers(lasts)
            tokens = (self.close,) if lasts[0] == state.pointer else ()
            return tokens + self._pointers((state.pointer + 1,) if state.pointer < lasts[-1] else ())
        return (self.close,)

    def _pointers(self, positions: Iterable[int]) -> tuple[int, ...]:
        return tuple([self.size + position for position in positions])

    def start(self) -> State:
        """Before the first token."""
        return State((), _IN_SLOT, -1)

    def step(self, state: State, token: int) -> State:
        """The state after an allowed token."""
        if token >= self.size:
            over = state.phase == _IN_LEAF and self.leaf == "span"
            return State(state.stack, _AFTER_CONTENT if over else _IN_LEAF, token - self.size)
        if token == self.close:
            stack = state.stack[:-1]
            # An intent closes into a slot, a slot into an intent.
            phase = _AFTER_CONTENT if state.phase == _IN_INTENT else _IN_INTENT
            return State(stack, phase, state.pointer)
        phase = _IN_SLOT if token in self.holds_text else _IN_INTENT
        return State((*state.stack, token), phase, state.pointer)

    def finishable(self, state: State, left: int, pieces: int) -> bool:
        """Whether some number of tokens up to ``left`` can finish the frame."""
        # Each open bracket takes one token to close; before that, at most one leaf or nested intent has to follow.
        enough = min(left, len(state.stack) + 3)
        return any(self.completable(state, tokens, pieces) for tokens in range(len(state.stack), enough + 1))

    def completable(self, state: State, left: int, pieces: int) -> bool:
        """Whether exactly ``left`` more tokens can finish the frame: a necessary condition, cheap to check.

        Args:
            state: after some token.
            left: tokens still to come.
            pieces: pieces of the utterance.
        """
        spare = left - len(state.stack)
        if not state.stack:
            return left == 0
        if spare < 0:
            return False
        if state.phase == _IN_LEAF:
            if self.leaf == "index":
                return True
            spare -= 1
        elif state.phase == _IN_SLOT:
            top = state.stack[-1]
            if spare == 0:
                return self.may_be_empty[top]
            if not self.inside[top] and state.pointer + 1 >= pieces:
                return False
            if self.leaf == "index":
                return True
            spare -= 2
        if spare < 0:
            return False
        if self.leaf == "index":
            # The smallest slot is [SL p ], or [SL ] where a slot may be empty.
            return spare == 0 or spare >= (2 if self._ends_odd else 3)
        return spare % (2 if self._ends_odd else 4) == 0


@dataclass(frozen=True, slots=True)
class Decoded:
    """A well-formed sequence.

    Attributes:
        candidate: number of its candidate length.
        ids: target ids.
        score: log-probability of the length, plus the scores of the ids.
    """

    candidate: int
    ids: tuple[int, ...]
    score: float


class LengthCandidate:
    """A candidate length: its log-probability, and the scores of its positions.

    Args:
        prior: log-probability of the length.
        scores: ``[length][size + pieces]`` log-probabilities as nested lists.
    """

    def __init__(self, prior: float, scores: Sequence[Sequence[float]]) -> None:
        self.prior, self.scores = prior, scores
        best = [max(row) for row in scores]
        self.bound = [0.0] * (len(best) + 1)
        for i in range(len(best) - 1, -1, -1):
            self.bound[i] = self.bound[i + 1] + best[i]
        self._ranked: dict[tuple[int, tuple[int, ...]], list[tuple[float, int]]] = {}

    def ranked(self, position: int, allowed: tuple[int, ...]) -> list[tuple[float, int]]:
        """Allowed ids at a position, best first, as (negated score, id)."""
        key = (position, allowed)
        if key not in self._ranked:
            row = self.scores[position]
            self._ranked[key] = sorted([(-row[token], token) for token in allowed])
        return self._ranked[key]


class _Entry(NamedTuple):
    """One option of one node of the search, in the order of the queue.

    Attributes:
        urgency: negated position once the search dives, else 0.
        cost: negated bound of the sequences through this option.
        tie: number of the entry; entries never compare further than this.
        candidate: number of the candidate length.
        position: of the option's token.
        state: before the token.
        path: tokens before it, last one first, as nested pairs.
        score: of the path.
        options: all options of the node, best first, as (negated score, id).
        rank: which of the options this is.
    """

    urgency: int
    cost: float
    tie: int
    candidate: int
    position: int
    state: State
    path: tuple | None
    score: float
    options: list[tuple[float, int]]
    rank: int


def decode(grammar: Grammar, candidates: Sequence[LengthCandidate], edges: Edges) -> Iterator[Decoded]:
    """Well-formed sequences over all candidate lengths, best first, at least one.

    Args:
        grammar: of well-formed sequences.
        candidates: the length beam.
        edges: where leaves may begin and end.

    Yields:
        Sequences in the order of ``prior + sum of position scores``. After :data:`MAX_STEPS` steps without one,
        the first frame that a search from the furthest positions reaches; if that finds none either, the best bare
        intent under the first candidate.
    """
    # The next option of a node is pushed only when the one before it is taken, so that a step costs two pushes whatever
    # the size of the ontology.
    queue: list[_Entry] = []
    tie = count()
    pieces = edges.lasts[-1] + 1

    def push(
        candidate: int, position: int, state: State, path: tuple | None, score: float, options: list, rank: int
    ) -> None:
        if rank < len(options):
            bound = score - options[rank][0] + candidates[candidate].bound[position + 1]
            urgency = -position if diving else 0
            entry = _Entry(urgency, -bound, next(tie), candidate, position, state, path, score, options, rank)
            heapq.heappush(queue, entry)

    def options_of(candidate: int, position: int, state: State) -> list[tuple[float, int]]:
        return candidates[candidate].ranked(position, grammar.options(state, edges))

    found, steps, diving = 0, 0, False
    start = grammar.start()
    for candidate, lengths in enumerate(candidates):
        push(candidate, 0, start, None, lengths.prior, options_of(candidate, 0, start), 0)
    while queue and steps < 2 * MAX_STEPS:
        steps += 1
        if steps > MAX_STEPS and not diving:
            if found:
                return
            diving = True
            queue = [entry._replace(urgency=-entry.position) for entry in queue]
            heapq.heapify(queue)
        *_, candidate, position, state, path, score, options, rank = heapq.heappop(queue)
        push(candidate, position, state, path, score, options, rank + 1)
        cost, token = options[rank]
        after = grammar.step(state, token)
        left = len(candidates[candidate].scores) - position - 1
        if not grammar.completable(after, left, pieces):
            continue
        path, score = (token, path), score - cost
        if left == 0:
            found, steps = found + 1, 0
            yield Decoded(candidate, _unroll(path), score)
            if diving:
                return
        else:
            push(candidate, position + 1, after, path, score, options_of(candidate, position + 1, after), 0)
    if not found:
        first = candidates[0]
        cost, token = first.ranked(0, grammar.roots)[0]
        yield Decoded(0, (token, grammar.close), first.prior - cost)


def greedy(candidates: Sequence[LengthCandidate]) -> Decoded:
    """The best token of every position of the best candidate, well-formed or not (the ablation)."""
    scored = [lengths.prior + lengths.bound[0] for lengths in candidates]
    best = max(range(len(scored)), key=scored.__getitem__)
    rows = candidates[best].scores
    return Decoded(best, tuple(max(range(len(row)), key=row.__getitem__) for row in rows), scored[best])


def _unroll(path: tuple | None) -> tuple[int, ...]:
    ids = []
    while path is not None:
        token, path = path
        ids.append(token)
    return tuple(reversed(ids))
