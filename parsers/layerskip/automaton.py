"""Which token may follow, so that a frame of the ontology over the utterance results; without torch.

The automaton reads tokens of the language model one by one. A leaf may copy any run of whole words that stands in the
utterance after the leaf before it, so the decoded frame always comes back as spans of the raw utterance. While a leaf
is being copied, all places that read the same so far are kept; when the leaf ends, the first of them is meant, or a
later one if tokens before the leaf passed over the first ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

from frames.frame import Frame
from frames.linearization import IndexForm, TargetIds
from frames.ontology import Ontology
from frames.tokenization import Source
from parsers.layerskip.spelling import Spelling

#: Intents and slots of one frame; TOPv2's largest has 21.
MAX_NODES = 40

_ROOT, _INTENT, _SLOT, _LEAF, _CONTENT, _DONE = range(6)


@dataclass(frozen=True, slots=True)
class _Symbols:
    """What was written so far, as a list that shares its beginning with others."""

    before: _Symbols | None
    symbols: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class State:
    """A point between two symbols.

    Attributes:
        stack: ontology symbols still open.
        phase: what may come next.
        floor: first piece that no leaf has used.
        first: whether the innermost open node has no child yet.
        nodes: intents and slots opened so far.
        starts: in a leaf, first pieces of the places that read as the leaf does so far.
        length: pieces of the leaf so far.
        passed: places to pass over.
        written: symbols so far.
    """

    stack: tuple[int, ...] = ()
    phase: int = _ROOT
    floor: int = 0
    first: bool = True
    nodes: int = 0
    starts: tuple[int, ...] = ()
    length: int = 0
    passed: int = 0
    written: _Symbols | None = None


#: Tokens still to be written, and the state after them.
Thread = tuple[tuple[int, ...], State]


class _Choice(NamedTuple):
    """A symbol that may follow.

    Attributes:
        tokens: that spell it.
        action: what it does to the state, a method of :class:`Cursor` by name.
        argument: of that method.
    """

    tokens: tuple[int, ...]
    action: str
    argument: Any


class _Choices:
    """Symbols that may follow, by their first token."""

    def __init__(self, choices: Iterable[_Choice]) -> None:
        self.by_token: dict[int, list[_Choice]] = {}
        for choice in choices:
            self.by_token.setdefault(choice.tokens[0], []).append(choice)
        self.tokens = tuple(sorted(self.by_token))


class FrameAutomaton:
    """The frames of an ontology as a language over tokens.

    Args:
        ontology: labels and nesting; only what training showed is allowed.
        spelling: how symbols are written.
        mixed: whether a slot may hold several leaves and intents, as 3 of TOPv2's training rows have it; frames with
            such slots can then be read back, but a parser would be free to write more than training showed.
    """

    def __init__(self, ontology: Ontology, spelling: Spelling, mixed: bool = False) -> None:
        self.spelling, self.mixed = spelling, mixed
        self.ids = TargetIds(ontology)
        self.roots = tuple(ontology.id(f"IN:{label}") for label in ontology.roots)
        self.slots = {
            ontology.id(f"IN:{label}"): tuple(ontology.id(f"SL:{slot}") for slot in slots)
            for label, slots in ontology.intent_slots.items()
        }
        self.intents = {
            ontology.id(f"SL:{label}"): tuple(ontology.id(f"IN:{intent}") for intent in intents)
            for label, intents in ontology.slot_intents.items()
        }
        self.holds_text = {ontology.id(f"SL:{label}"): count > 0 for label, count in ontology.slot_spans.items()}
        self.may_be_empty = {ontology.id(f"SL:{label}"): count > 0 for label, count in ontology.slot_empty.items()}

        self.choices = cache(self._choices)

    def start(self, source: Source, nodes: int = MAX_NODES) -> Cursor:
        """The cursor before the first token of a frame over an utterance.

        Args:
            source: the utterance.
            nodes: intents and slots that the frame may have; a slot that must hold an intent still gets it after that.
        """
        return Cursor(self, Utterance(source, nodes), (((), State()),))

    def _choices(self, phase: int, top: int, first: bool, room: bool, full: bool) -> _Choices:
        """Symbols other than those of leaves that may follow; few situations occur, so they are kept."""
        return _Choices(self._symbols(phase, top, first, room, full))

    def _symbols(self, phase: int, top: int, first: bool, room: bool, full: bool) -> Iterator[_Choice]:
        spelling = self.spelling
        if phase == _ROOT:
            yield from (_Choice(spelling.open(root, True), "open_intent", root) for root in self.roots)
        elif phase == _INTENT:
            for slot in () if full else self.slots[top]:
                if room or self.may_be_empty[slot] or self.intents[slot]:
                    yield _Choice(spelling.open(slot, first), "open_slot", slot)
            yield _Choice(spelling.end(top, False), "close", None)
        elif phase in (_SLOT, _CONTENT):
            if phase == _CONTENT or self.may_be_empty[top]:
                yield _Choice(spelling.end(top, False), "close", None)
            must_nest = not (self.may_be_empty[top] or (room and self.holds_text[top]))
            if phase == _SLOT or self.mixed:
                for intent in self.intents[top] if must_nest or not full else ():
                    yield _Choice(spelling.nested() + spelling.open(intent, True), "open_intent", intent)


class Utterance:
    """An utterance, where words of it are repeated, and how large its frame may be.

    Args:
        source: the utterance in pieces.
        nodes: intents and slots of its frame.
    """

    def __init__(self, source: Source, nodes: int = MAX_NODES) -> None:
        self.source, self.nodes = source, nodes
        self.ids = source.ids
        edges = source.edges
        self.firsts, self.lasts = edges.firsts, frozenset(edges.lasts)
        #: last piece of the word that a piece is in.
        self.word_end = [0] * len(source)
        for first, last in zip(edges.firsts, edges.lasts, strict=True):
            for piece in range(first, last + 1):
                self.word_end[piece] = last

    @cached_property
    def _words(self) -> list[tuple[int, ...]]:
        return [self.ids[first : self.word_end[first] + 1] for first in self.firsts]

    def repeats(self, floor: int) -> int:
        """How often the most frequent word stands from a piece on."""
        words = (word for first, word in zip(self.firsts, self._words, strict=True) if first >= floor)
        return max(Counter(words).values(), default=0)

    def complete(self, state: State) -> list[int]:
        """The places of a leaf that end with a word."""
        return [start for start in state.starts if start + state.length - 1 in self.lasts]

    def can_pass(self, starts: list[int], length: int, passed: int) -> bool:
        """Whether a leaf that reads so can go on until it stands in more than ``passed`` places."""
        if not passed:
            return True
        for start in starts:
            end = self.word_end[start + length - 1]
            run = self.ids[start : end + 1]
            alike = (s for s in starts if self.ids[s : s + len(run)] == run and s + len(run) - 1 in self.lasts)
            if sum(1 for _ in alike) > passed:
                return True
        return False


class Cursor:
    """A point between two tokens of a frame; immutable.

    Args:
        automaton: the language.
        utterance: what leaves are copied from.
        threads: what the tokens so far may be the beginning of.
    """

    __slots__ = ("_dynamic", "_static", "automaton", "threads", "utterance")

    def __init__(self, automaton: FrameAutomaton, utterance: Utterance, threads: tuple[Thread, ...]) -> None:
        self.automaton, self.utterance, self.threads = automaton, utterance, threads
        self._static: list[tuple[State, _Choices]] | None = None
        self._dynamic: dict[int, list[tuple[State, _Choice]]] = {}

    @property
    def done(self) -> bool:
        """Whether the frame is complete; nothing may follow."""
        return any(not pending and state.phase == _DONE for pending, state in self.threads)

    @property
    def options(self) -> tuple[int, ...]:
        """Tokens that may follow, ascending; at least one unless the frame is complete."""
        static = self._following()
        if not self._dynamic and len(static) == 1:
            return static[0][1].tokens
        return tuple(sorted({*self._dynamic, *(token for _, choices in static for token in choices.tokens)}))

    @property
    def forced(self) -> int | None:
        """The only token that may follow, if there is only one."""
        options = self.options
        return options[0] if len(options) == 1 else None

    @property
    def copied(self) -> int | None:
        """The next piece of the utterance, if a leaf is being copied and can go on."""
        for pending, state in self.threads:
            if not pending and state.phase == _LEAF and state.length:
                after = state.starts[state.passed if state.passed < len(state.starts) else 0] + state.length
                self._following()
                if after < len(self.utterance.ids) and self.utterance.ids[after] in self._dynamic:
                    return self.utterance.ids[after]
        return None

    def step(self, token: int) -> Cursor:
        """The cursor after a token.

        Raises:
            KeyError: the token may not follow.
        """
        static = self._following()
        found = list(self._dynamic.get(token, ()))
        for state, choices in static:
            found += [(state, choice) for choice in choices.by_token.get(token, ())]
        if not found:
            raise KeyError(token)
        threads = [
            (choice.tokens[1:], getattr(self, f"_{choice.action}")(state, choice.argument)) for state, choice in found
        ]
        return Cursor(self.automaton, self.utterance, tuple(threads))

    def frame(self) -> Frame:
        """The frame that was written.

        Raises:
            ValueError: it is not complete.
        """
        for pending, state in self.threads:
            if not pending and state.phase == _DONE:
                parts: list[tuple[int, ...]] = []
                written = state.written
                while written is not None:
                    parts.append(written.symbols)
                    written = written.before
                symbols = [symbol for part in reversed(parts) for symbol in part]
                return IndexForm().decode(self.automaton.ids.decode(symbols), self.utterance.source)
        raise ValueError("the frame is not complete")

    def _following(self) -> list[tuple[State, _Choices]]:
        """Choices that depend on labels alone; those that depend on the utterance are put into ``_dynamic``."""
        if self._static is None:
            self._static = []
            for pending, state in self.threads:
                if pending:
                    self._offer(state, _Choice(pending, "stay", None))
                else:
                    self._expand(state)
        return self._static

    def _offer(self, state: State, choice: _Choice) -> None:
        self._dynamic.setdefault(choice.tokens[0], []).append((state, choice))

    def _expand(self, state: State) -> None:
        """Notes the symbols that may follow a state."""
        a = self.automaton
        assert self._static is not None
        if state.phase == _LEAF:
            self._expand_leaf(state, ())
            return
        if state.phase == _DONE:
            return
        top = state.stack[-1] if state.stack else -1
        room = state.floor < len(self.utterance.ids)
        full = state.nodes >= self.utterance.nodes
        choices = a.choices(state.phase, top, state.first, room, full)
        if choices.tokens:
            self._static.append((state, choices))
        if (state.phase == _SLOT or (state.phase == _CONTENT and a.mixed)) and room and a.holds_text[top]:
            starts = tuple(first for first in self.utterance.firsts if first >= state.floor)
            leaf = replace(state, phase=_LEAF, starts=starts, length=0, passed=0)
            self._expand_leaf(leaf, a.spelling.text())

    def _expand_leaf(self, state: State, opening: tuple[int, ...]) -> None:
        """Notes the next pieces of a leaf, and its end."""
        u, spelling = self.utterance, self.automaton.spelling
        alike: dict[int, list[int]] = {}
        for start in state.starts:
            if start + state.length < len(u.ids):
                alike.setdefault(u.ids[start + state.length], []).append(start)
        for piece, starts in alike.items():
            if u.can_pass(starts, state.length + 1, state.passed):
                self._offer(state, _Choice((*opening, piece), "copy", tuple(starts)))
        if not state.length:
            if u.repeats(state.floor) > state.passed + 1:
                self._offer(state, _Choice((*opening, spelling.pass_over), "pass_over", None))
            return
        complete = u.complete(state)
        if len(complete) <= state.passed:
            return
        over = self._end_leaf(state, complete[state.passed])
        self._offer(over, _Choice(spelling.end(state.stack[-1], True), "close", None))
        if self.automaton.mixed:
            self._expand_mixed(over)

    def _expand_mixed(self, state: State) -> None:
        """What may follow a leaf in the same slot, besides the slot's end."""
        a = self.automaton
        for intent in a.intents[state.stack[-1]]:
            tokens = a.spelling.nested() + a.spelling.open(intent, True)
            self._offer(state, _Choice(tokens, "open_intent", intent))

    def _stay(self, state: State, argument: None) -> State:
        return state

    def _open_intent(self, state: State, symbol: int) -> State:
        return self._opened(state, symbol, _INTENT)

    def _open_slot(self, state: State, symbol: int) -> State:
        return self._opened(state, symbol, _SLOT)

    def _opened(self, state: State, symbol: int, phase: int) -> State:
        written = _Symbols(state.written, (symbol,))
        return State((*state.stack, symbol), phase, state.floor, True, state.nodes + 1, written=written)

    def _copy(self, state: State, starts: tuple[int, ...]) -> State:
        return replace(state, starts=starts, length=state.length + 1)

    def _pass_over(self, state: State, argument: None) -> State:
        return replace(state, passed=state.passed + 1)

    def _end_leaf(self, state: State, first: int) -> State:
        """The state after a leaf that begins at this piece."""
        end, size = first + state.length, self.automaton.ids.size
        pointers = tuple(size + piece for piece in range(first, end))
        written = _Symbols(state.written, pointers)
        return State(state.stack, _CONTENT, end, False, state.nodes, written=written)

    def _close(self, state: State, argument: None) -> State:
        stack = state.stack[:-1]
        # What closes is an intent or a slot; what it closes into is the other kind.
        phase = _DONE if not stack else _CONTENT if stack[-1] in self.automaton.intents else _INTENT
        written = _Symbols(state.written, (self.automaton.spelling.close,))
        return State(stack, phase, state.floor, False, state.nodes, written=written)


def spelled(symbols: list[int], source: Source, spelling: Spelling) -> list[int]:
    """Tokens of a frame.

    Args:
        symbols: target ids of the frame in the copy form.
        source: its utterance.
        spelling: how symbols are written.
    """
    tokens: list[int] = []
    #: of each open node: its symbol, whether it has a child, whether it holds text.
    stack: list[list[int]] = []
    for symbol in symbols:
        if symbol == spelling.close:
            node, _, text = stack.pop()
            tokens += spelling.end(node, bool(text))
        elif symbol < spelling.size:
            inside_slot = bool(stack) and spelling.ontology.tokens[stack[-1][0]].startswith("SL:")
            if inside_slot:
                tokens += spelling.nested()
            tokens += spelling.open(symbol, not stack or inside_slot or not stack[-1][1])
            if stack:
                stack[-1][1], stack[-1][2] = 1, 0
            stack.append([symbol, 0, 0])
        else:
            if not stack[-1][2]:
                tokens += spelling.text()
            stack[-1][1] = stack[-1][2] = 1
            piece = symbol - spelling.size
            tokens.append(spelling.pass_over if piece == len(source) else source.ids[piece])
    return tokens


def capacity(source: Source, spelling: Spelling, nodes: int) -> int:
    """Tokens that a frame over an utterance has at most.

    Args:
        source: the utterance.
        spelling: how symbols are written.
        nodes: as in :meth:`FrameAutomaton.start`.
    """
    # One node more than that, see there. A leaf copies its pieces and passes over fewer places than there are pieces.
    return (nodes + 1) * spelling.longest_node + 2 * len(source)


def nodes_in(room: int, source: Source, spelling: Spelling) -> int:
    """Intents and slots for which ``room`` tokens suffice, at most :data:`MAX_NODES`; below 1 if they do not for one."""
    return min(MAX_NODES, (room - 2 * len(source)) // spelling.longest_node - 1)
