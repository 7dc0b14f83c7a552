"""Self-speculative decoding of frames; without torch.

The idea (Elhoushi et al. 2024, section 4.3; Zhang et al. 2023, arXiv 2309.08168):

1. The first E layers and the shared head draft some tokens, one after the other.
2. The other layers read all drafts in one pass, from the states that the first E layers left, and say for each
   position what the whole model would have written.
3. The longest beginning that agrees is kept, and one token more: what the whole model wrote where the draft went wrong.
4. All layers share one key-value cache; entries of refused drafts are overwritten.

So every token is what decoding with the whole model gives. Beyond the paper, each by an option: tokens that the frame
grammar forces cost no call; only tokens that may follow are scored; the utterance's next words are guesses that the
early layers read together with what they follow; the exit layer follows the cost so far, and drafting stops where the
early layers are unsure.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parsers.bounds import check_bounds
from parsers.layerskip.automaton import Cursor
from parsers.layerskip.backend import Backend
from parsers.layerskip.policy import ExitPolicy, worth_drafting


@dataclass
class LayerSkipDecodingConfig:
    """How a frame is written.

    Attributes:
        exit_layer: layers that draft; 0 decodes with the whole model, token by token.
        drafts: tokens drafted before they are verified.
        verify: whether the other layers verify; False answers with the first ``exit_layer`` layers alone (early exit).
        skip_forced: tokens that the grammar forces cost no call (ours).
        score_candidates: score only tokens that may follow, in place of the whole vocabulary (ours).
        copies: the utterance's next words that are guessed while a leaf is being copied (ours); 0 for none.
        adaptive: the exit layer follows what decodings so far cost, from ``exit_layer`` on, and drafting stops where the
            early layers are unsure, whatever ``drafts`` says (ours). Where nothing verifies, the exit decides the answer and stays.
        temperature: 0 takes the likeliest token; above, tokens are drawn, in distribution as the whole model draws them
            (Leviathan et al. 2023, arXiv 2211.17192).
        seed: of the draws.
        group: utterances decoded together.
    """

    exit_layer: int = 0
    drafts: int = 6
    verify: bool = True
    skip_forced: bool = True
    score_candidates: bool = True
    copies: int = 3
    adaptive: bool = False
    temperature: float = 0.0
    seed: int = 0
    group: int = 32

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.verify and not self.exit_layer:
            raise ValueError("verify: false answers with early layers alone: give exit_layer")


@dataclass(frozen=True)
class Written:
    """One token of a frame and where it came from.

    Attributes:
        token: id.
        origin: ``forced`` by the grammar, ``copied`` from the utterance, ``drafted`` by early layers, ``corrected`` by the
            whole model where a draft went wrong, or ``decoded`` by the whole model after all drafts were accepted, or
            without drafts.
        refused: what was drafted in its place, None if nothing was.
        log_prob: under the whole model (of early layers where nothing verifies), among tokens that may follow.
    """

    token: int
    origin: str
    refused: int | None = None
    log_prob: float = 0.0


@dataclass(frozen=True)
class Branch:
    """The beginning of another reading: its tokens, the cursor after them, and their log-probability."""

    tokens: list[int]
    cursor: Cursor
    log_prob: float


@dataclass
class Counts:
    """What decoding did.

    Attributes:
        tokens: written.
        early_calls: passes of the first E layers.
        calls: passes of the other layers, or of the whole model.
        drafted: tokens drafted by the early layers, or copied, that were verified.
        accepted: of those, how many the whole model would have written.
    """

    tokens: int = 0
    early_calls: int = 0
    calls: int = 0
    drafted: int = 0
    accepted: int = 0

    def add(self, other: Counts) -> None:
        """Adds what another decoding did."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Draft:
    """A token that is not verified yet.

    Attributes:
        token: id.
        origin: see :class:`Written`.
        cursor: after the token.
        probabilities: the distribution that it was drawn from; None for one that was not drawn.
        sure: probability of the likeliest token among those that may follow, under the early layers.
        log_prob: of the token itself, among those that may follow; 0 for a guess.
    """

    token: int
    origin: str
    cursor: Cursor
    probabilities: np.ndarray | None = None
    sure: float = 1.0
    log_prob: float = 0.0


@dataclass
class _Row:
    """A sequence while it is written.

    Attributes:
        prompt: its tokens.
        cursor: after all tokens that are certain.
        written: the certain tokens of the frame.
        drafts: tokens after those.
        early: tokens, prompt included, that the early layers have read.
        late: tokens that the other layers have read.
    """

    prompt: list[int]
    cursor: Cursor
    written: list[Written] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    early: int = 0
    late: int = 0

    @property
    def certain(self) -> int:
        """Tokens of prompt and frame that stand."""
        return len(self.prompt) + len(self.written)

    def token(self, position: int) -> int:
        """The token at a position, drafts included."""
        if position < len(self.prompt):
            return self.prompt[position]
        position -= len(self.prompt)
        if position < len(self.written):
            return self.written[position].token
        return self.drafts[position - len(self.written)].token

    @property
    def tip(self) -> Cursor:
        """The cursor after the last draft."""
        return self.drafts[-1].cursor if self.drafts else self.cursor

    def goes_on(self, config: LayerSkipDecodingConfig) -> bool:
        """Whether another token is drafted before the drafts are verified."""
        if self.tip.done:
            return False
        sure = [draft.sure for draft in self.drafts if draft.origin != "forced"]
        return worth_drafting(sure) if config.adaptive else len(sure) < config.drafts


class Decoder:
    """Writes frames with a backend.

    Args:
        backend: the language model.
        config: how.
    """

    def __init__(self, backend: Backend, config: LayerSkipDecodingConfig) -> None:
        self.backend, self.config = backend, config
        self.policy = ExitPolicy(backend.exits, backend.depth, config.exit_layer)
        self.rng = np.random.default_rng(config.seed)
        self.counts = Counts()
        self._observing = threading.Lock()

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        cursors: Sequence[Cursor],
        capacity: int,
        begun: Sequence[Sequence[int]] | None = None,
    ) -> list[tuple[Cursor, list[Written]]]:
        """Writes a frame after each prompt.

        Args:
            prompts: tokens of each.
            cursors: where each frame stands.
            capacity: positions that the longest prompt with its frame can take.
            begun: tokens of each frame that are there already; None for no token.

        Returns:
            Of each the cursor at the end of the frame and the tokens that were written.
        """
        config = self.config
        if config.adaptive and config.verify and config.exit_layer:
            with self._observing:
                config = replace(config, exit_layer=self.policy.choose())
        counts = Counts()
        memory = self.backend.begin(prompts, capacity + 1)
        starts = [()] * len(prompts) if begun is None else begun
        rows = [_Row([*p, *start], cursor) for p, start, cursor in zip(prompts, starts, cursors, strict=True)]
        for row in rows:
            self._force(row)
        while active := [k for k, row in enumerate(rows) if not row.cursor.done]:
            if config.exit_layer:
                self._draft(memory, rows, active, config, counts, capacity)
                if not config.verify:
                    continue
            self._verify(memory, rows, active, config, counts, capacity)
        counts.tokens = sum(len(row.written) for row in rows)
        with self._observing:
            self.counts.add(counts)
            self.policy.observe(config.exit_layer, counts.tokens, counts.early_calls, counts.calls)
        return [(row.cursor, row.written) for row in rows]

    def alternatives(
        self, prompt: Sequence[int], cursor: Cursor, written: Sequence[int], capacity: int
    ) -> list[Branch]:
        """The second likeliest token at each point of a frame, for further readings.

        Args:
            prompt: tokens before the frame.
            cursor: at its beginning.
            written: its tokens.
            capacity: as in :meth:`decode`.
        """
        memory = self.backend.begin([prompt], capacity + 1)
        tokens = np.array([[*prompt, *written]], dtype=np.int64)
        positions = np.arange(tokens.shape[1])[None]
        depth = self.backend.depth if self.config.verify else self.config.exit_layer
        states = self.backend.draft(memory, np.array([0]), tokens, positions, depth)
        cursors = [cursor]
        for token in written:
            cursors.append(cursors[-1].step(token))
        asked = [((0, len(prompt) - 1 + n), cursors[n]) for n in range(len(written))]
        found, log_prob = [], 0.0
        for n, (token, (options, logits)) in enumerate(zip(written, self._logits(states, asked), strict=True)):
            cursor = cursors[n]
            log_probs = np.log(_softmax(logits))
            for k in np.argsort(-logits, kind="stable")[:2]:
                if options[k] != token:
                    branch = cursor.step(options[k])
                    found.append(Branch([*written[:n], options[k]], branch, log_prob + float(log_probs[k])))
                    break
            log_prob += float(log_probs[options.index(token)])
        return found

    def _force(self, row: _Row) -> None:
        """Writes what the grammar forces after the certain tokens."""
        while self.config.skip_forced and not row.cursor.done and (token := row.cursor.forced) is not None:
            row.cursor = row.cursor.step(token)
            row.written.append(Written(token, "forced"))

    def _guesses(self, cursor: Cursor, copies: int) -> list[Draft]:
        """Tokens that cost no call: those that are forced, and the utterance's next words."""
        found: list[Draft] = []
        while not cursor.done:
            forced = cursor.forced if self.config.skip_forced else None
            token = forced if forced is not None else cursor.copied if copies else None
            if token is None:
                break
            copies -= forced is None
            cursor = cursor.step(token)
            found.append(Draft(token, "copied" if forced is None else "forced", cursor))
        return found

    def _read(
        self, rows: list[_Row], numbers: list[int], begins: list[int], extra: list[list[int]], pad: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and positions ``[N, T]`` from a position of each row on, with further tokens after its drafts."""
        spans = []
        for k, begin, more in zip(numbers, begins, extra, strict=True):
            row = rows[k]
            end = row.certain + len(row.drafts)
            spans.append([row.token(p) for p in range(begin, end)] + more)
        width = max(len(span) for span in spans)
        tokens = np.zeros((len(spans), width), dtype=np.int64)
        positions = np.full((len(spans), width), pad, dtype=np.int64)
        for i, (span, begin) in enumerate(zip(spans, begins, strict=True)):
            tokens[i, : len(span)] = span
            positions[i, : len(span)] = np.arange(begin, begin + len(span))
        return tokens, positions

    def _draft(
        self,
        memory: Any,
        rows: list[_Row],
        active: list[int],
        config: LayerSkipDecodingConfig,
        counts: Counts,
        pad: int,
    ) -> None:
        """Step 1: the early layers draft, and read guesses together with what they follow."""
        waiting = list(active)
        while waiting:
            guesses = {k: self._guesses(rows[k].tip, config.copies) for k in waiting}
            begins = [rows[k].early for k in waiting]
            extra = [[draft.token for draft in guesses[k]] for k in waiting]
            tokens, positions = self._read(rows, waiting, begins, extra, pad)
            states = self.backend.draft(memory, np.array(waiting), tokens, positions, config.exit_layer)
            counts.early_calls += 1
            asked = []
            for i, k in enumerate(waiting):
                row = rows[k]
                column = row.certain + len(row.drafts) - row.early - 1
                asked += _questions(i, column, row.tip, guesses[k])
            scored = dict(zip((index for index, _ in asked), self._logits(states, asked), strict=True))
            for i, k in enumerate(waiting):
                row = rows[k]
                at = row.certain + len(row.drafts) - row.early - 1
                row.early = row.certain + len(row.drafts)
                for guess in [*guesses[k], None]:
                    tip = row.tip
                    if tip.done:
                        break
                    if guess is not None and guess.origin == "forced":
                        row.drafts.append(guess)
                    else:
                        draft = self._chosen(scored[i, at], tip)
                        if guess is not None and guess.token == draft.token:
                            draft.origin = "copied"
                        row.drafts.append(draft)
                        if guess is None or guess.token != draft.token:
                            break
                    # The token was read as a guess, so its state is there.
                    row.early += 1
                    at += 1
                if not config.verify:
                    self._accept_all(row)
            waiting = [k for k in waiting if config.verify and rows[k].goes_on(config)]

    def _accept_all(self, row: _Row) -> None:
        """Early exit: drafts stand as they are."""
        for draft in row.drafts:
            row.written.append(Written(draft.token, draft.origin, None, draft.log_prob))
        row.cursor = row.tip
        row.drafts = []
        self._force(row)

    def _verify(
        self,
        memory: Any,
        rows: list[_Row],
        active: list[int],
        config: LayerSkipDecodingConfig,
        counts: Counts,
        pad: int,
    ) -> None:
        """Steps 2 and 3: the other layers read all drafts; what agrees is kept, and one token more."""
        numbers = np.array(active)
        guesses = {k: self._guesses(rows[k].tip, config.copies) for k in active}
        for k in active:
            # Guesses after the last draft are verified by the whole model at once.
            rows[k].drafts += guesses[k]
        exit_layer = config.exit_layer or self.backend.depth
        begins = [rows[k].early for k in active]
        if any(rows[k].early < rows[k].certain + len(rows[k].drafts) for k in active):
            tokens, positions = self._read(rows, active, begins, [[] for _ in active], pad)
            states = self.backend.draft(memory, numbers, tokens, positions, exit_layer)
            counts.early_calls += config.exit_layer > 0
        firsts = begins
        if config.exit_layer:
            firsts = [rows[k].late for k in active]
            _, positions = self._read(rows, active, firsts, [[] for _ in active], pad)
            states = self.backend.finish(memory, numbers, positions, exit_layer)
        counts.calls += 1
        asked = []
        for i, k in enumerate(active):
            row = rows[k]
            asked += _questions(i, row.certain - 1 - firsts[i], row.cursor, row.drafts)
        scored = dict(zip((index for index, _ in asked), self._logits(states, asked), strict=True))
        for i, k in enumerate(active):
            row = rows[k]
            certain = row.certain
            kept = 0
            refused: int | None = None
            for n in range(len(row.drafts) + 1):
                if row.cursor.done:
                    break
                draft = row.drafts[n] if n < len(row.drafts) else None
                if draft is not None and draft.origin == "forced":
                    row.cursor = draft.cursor
                    row.written.append(Written(draft.token, "forced"))
                    kept += 1
                    continue
                index = (i, certain - 1 + n - firsts[i])
                token, log_prob = self._verified(scored[index], draft)
                agrees = draft is not None and token == draft.token
                counts.drafted += draft is not None
                counts.accepted += agrees
                if draft is not None and not agrees:
                    refused = draft.token
                origin = draft.origin if draft is not None and agrees else "decoded" if refused is None else "corrected"
                row.written.append(Written(token, origin, refused, log_prob))
                row.cursor = row.cursor.step(token)
                if not agrees:
                    break
                kept += 1
            # All layers have read what was certain before and the drafts that were kept.
            row.late = certain + kept
            row.early = min(row.certain, certain + kept)
            row.drafts = []
            self._force(row)

    def _chosen(self, scored: tuple[tuple[int, ...], np.ndarray], cursor: Cursor) -> Draft:
        """A draft: the likeliest token, or one that is drawn."""
        options, logits = scored
        draws = bool(self.config.temperature)
        probabilities = _softmax(logits / self.config.temperature if draws else logits)
        k = int(self.rng.choice(len(options), p=probabilities) if draws else np.argmax(logits))
        return Draft(
            options[k], "drafted", cursor.step(options[k]), probabilities if draws else None,
            float(probabilities.max()), float(np.log(probabilities[k])),
        )  # fmt: skip

    def _verified(self, scored: tuple[tuple[int, ...], np.ndarray], draft: Draft | None) -> tuple[int, float]:
        """What the whole model writes at a position, and its log-probability; sampling keeps its distribution."""
        options, logits = scored
        if not self.config.temperature:
            k = int(np.argmax(logits))
            return options[k], float(np.log(_softmax(logits)[k]))
        wanted = _softmax(logits / self.config.temperature)
        if draft is not None:
            at = options.index(draft.token)
            # A guess is a distribution with all its mass on one token.
            drawn = draft.probabilities
            if drawn is None:
                drawn = np.zeros(len(options))
                drawn[at] = 1.0
            if self.rng.random() * drawn[at] < wanted[at]:
                return draft.token, float(np.log(wanted[at]))
            left = np.maximum(wanted - drawn, 0.0)
            wanted_now = left / left.sum() if left.sum() > 0 else wanted
        else:
            wanted_now = wanted
        k = int(self.rng.choice(len(options), p=wanted_now))
        return options[k], float(np.log(max(wanted[k], 1e-300)))

    def _logits(
        self, states: Any, asked: Sequence[tuple[tuple[int, int], Cursor]]
    ) -> list[tuple[tuple[int, ...], np.ndarray]]:
        """At each index, the tokens that may follow and their logits."""
        if not asked:
            return []
        index = np.array([at for at, _ in asked], dtype=np.int64)
        options = [cursor.options for _, cursor in asked]
        chosen = [np.array(tokens, dtype=np.int64) for tokens in options]
        if self.config.score_candidates:
            scores = self.backend.scores(states, index, chosen)
        else:
            full = self.backend.scores(states, index, None)
            scores = [row[tokens] for row, tokens in zip(full, chosen, strict=True)]
        return [(tokens, row.astype(np.float64)) for tokens, row in zip(options, scores, strict=True)]


def _questions(row: int, column: int, cursor: Cursor, drafts: Sequence[Draft]) -> list[tuple[tuple[int, int], Cursor]]:
    """Where scores are needed: before each draft, except forced ones, and after the last.

    Args:
        row: of the states.
        column: of the state before the first draft.
        cursor: before the first draft.
        drafts: tokens that were read one after the other.
    """
    asked = []
    for n, before in enumerate([cursor, *(draft.cursor for draft in drafts)]):
        forced = n < len(drafts) and drafts[n].origin == "forced"
        if not before.done and not forced:
            asked.append(((row, column + n), before))
    return asked


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()
