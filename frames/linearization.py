"""Linearizations: the sequences a parser predicts in place of a tree, each with its exact inverse.

A token is an ontology token (``"IN:…"``, ``"SL:…"``, ``"]"``) or an integer, the position of a piece of the
utterance. For ``[IN:CREATE_ALARM [SL:DATE_TIME at 8 : 30 ] ]`` over the pieces ``set alarm at 8 : 30``:

=========== ================================================= ==============================================
form        tokens                                            used by
=========== ================================================= ==============================================
canonical   ``[IN:CREATE_ALARM [SL:DATE_TIME at 8:30 ] ]``    seq2seq parsers that copy words
index       ``IN:CREATE_ALARM SL:DATE_TIME 2 3 4 5 ] ]``      conv NAR (Babu et al. 2021)
copy        as index, repeated words told apart                LayerSkip (Elhoushi et al. 2024)
span        ``IN:CREATE_ALARM SL:DATE_TIME 2 5 ] ]``          span pointer (Shrivastava et al. 2021)
scenario    ``IN:CREATE_ALARM SL:DATE_TIME ] ] 2 5``          RAF (Shrivastava et al. 2022)
=========== ================================================= ==============================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from frames.alignment import leftmost
from frames.errors import FrameError
from frames.frame import Frame
from frames.nodes import Intent, Node, Slot, Span, moved
from frames.ontology import CLOSE, Ontology
from frames.tokenization import Source

Token = str | int
#: Stands, in a scenario, for text that is not the only child of its slot.
TEXT = "*"
#: Endpoints of an empty slot in the scenario form.
NOTHING = -1


class Linearization(ABC):
    """``decode(encode(frame, source), source) == frame``, for every frame whose leaves fall on piece edges."""

    @abstractmethod
    def encode(self, frame: Frame, source: Source) -> list[Token]:
        """The frame as tokens.

        Raises:
            FrameError: a leaf does not start and end on piece edges.
        """

    @abstractmethod
    def decode(self, tokens: Sequence[Token], source: Source) -> Frame:
        """The frame that the tokens spell.

        Raises:
            FrameError: the tokens spell no well-formed frame.
        """


class Canonical(Linearization):
    """The printed frame, word by word.

    Exact on full frames. In a decoupled frame the place of a repeated word is not told by the words alone, so
    ``decode`` aligns each leaf to the leftmost place that follows the leaf before it.
    """

    def encode(self, frame: Frame, source: Source) -> list[Token]:
        """See :meth:`Linearization.encode`; the pieces play no part."""
        return [token for token in str(frame).split()]

    def decode(self, tokens: Sequence[Token], source: Source) -> Frame:
        """See :meth:`Linearization.decode`."""
        text = " ".join(str(token) for token in tokens)
        try:
            return Frame.parse(text, source.text)
        except FrameError as error:
            if error.code not in ("E112", "E114"):
                raise
            words = Frame.parse(text)
            found = leftmost([words.text(span) for span in words.spans()], source.text)
            if found is None:
                raise
            return Frame(moved(words.root, iter(found)), source.text)


class _Pointers(Linearization):
    """What the forms that point at pieces share."""

    def encode(self, frame: Frame, source: Source) -> list[Token]:
        """See :meth:`Linearization.encode`."""
        return list(self._encode(frame.root, source))

    def _encode(self, node: Node, source: Source) -> Iterator[Token]:
        yield f"{'IN' if isinstance(node, Intent) else 'SL'}:{node.label}"
        for child in node.children:
            if isinstance(child, Span):
                yield from self._leaf(*_pieces(child, source))
            else:
                yield from self._encode(child, source)
        yield CLOSE

    def decode(self, tokens: Sequence[Token], source: Source) -> Frame:
        """See :meth:`Linearization.decode`."""
        spans = {i: self._span(run, source) for i, run in _runs(tokens)}
        flat: list[Token | Span] = []
        for i, token in enumerate(tokens):
            if isinstance(token, str):
                flat.append(token)
            elif i in spans:
                flat.extend(spans[i])
        return Frame(_tree(flat), source.text)

    @abstractmethod
    def _leaf(self, first: int, last: int) -> Sequence[int]:
        """Tokens of a leaf over pieces ``first`` to ``last``, both included."""

    @abstractmethod
    def _span(self, run: Sequence[int], source: Source) -> list[Span]:
        """The leaf or leaves that a run of pointers spells."""


class IndexForm(_Pointers):
    """One pointer for every piece of a leaf."""

    def _leaf(self, first: int, last: int) -> Sequence[int]:
        return range(first, last + 1)

    def _span(self, run: Sequence[int], source: Source) -> list[Span]:
        if list(run) != list(range(run[0], run[0] + len(run))):
            raise FrameError(
                "E130",
                f"pointers {list(run)} are not consecutive.",
                remedy="Give what encode wrote, for the same utterance.",
            )
        return [_chars(run[0], run[-1], source)]


class CopyForm(IndexForm):
    """As :class:`IndexForm`, for parsers that copy pieces by what they read and not by where they stand.

    A leaf copied so stands at the first place after the leaf before it that reads the same. Where the frame means a
    later place, one pointer past the last piece stands before the leaf for each place that is passed over (in 32 of
    TOPv2's 124,597 training rows).
    """

    def encode(self, frame: Frame, source: Source) -> list[Token]:
        """See :meth:`Linearization.encode`."""
        tokens: list[Token] = []
        floor = 0
        for begin, run in _steps(super().encode(frame, source)):
            if not begin:
                tokens += run
                continue
            first, last = int(run[0]), int(run[-1])
            same = [start for start in readings(source, source.ids[first : last + 1], floor) if start < first]
            tokens += [len(source)] * len(same) + run
            floor = last + 1
        return tokens

    def decode(self, tokens: Sequence[Token], source: Source) -> Frame:
        """See :meth:`Linearization.decode`."""
        return super().decode([token for token in tokens if token != len(source)], source)


def readings(source: Source, pieces: Sequence[int], floor: int) -> Iterator[int]:
    """First pieces of the places from ``floor`` on that hold these pieces as whole words, in order."""
    count, edges = len(pieces), source.edges
    lasts = frozenset(edges.lasts)
    for start in edges.firsts:
        if start >= floor and start + count - 1 in lasts and source.ids[start : start + count] == tuple(pieces):
            yield start


class SpanForm(_Pointers):
    """Two pointers for every leaf: its first and its last piece, both included."""

    def _leaf(self, first: int, last: int) -> Sequence[int]:
        return (first, last)

    def _span(self, run: Sequence[int], source: Source) -> list[Span]:
        if len(run) != 2:
            raise FrameError(
                "E131",
                f"a leaf has two endpoints, not {len(run)}.",
                remedy="Give what encode wrote, for the same utterance.",
            )
        return [_chars(run[0], run[1], source)]


class ScenarioForm(Linearization):
    """The template first, then the two endpoints of every leaf in order."""

    def encode(self, frame: Frame, source: Source) -> list[Token]:
        """See :meth:`Linearization.encode`. An empty slot has the endpoints -1, -1."""
        template: list[Token] = []
        fills: list[Token] = []
        self._encode(frame.root, source, template, fills)
        return template + fills

    def _encode(self, node: Node, source: Source, template: list[Token], fills: list[Token]) -> None:
        template.append(f"{'IN' if isinstance(node, Intent) else 'SL'}:{node.label}")
        alone = isinstance(node, Slot) and len(node.children) == 1
        for child in node.children:
            if isinstance(child, Span):
                if not alone:
                    template.append(TEXT)
                fills.extend(_pieces(child, source))
            else:
                self._encode(child, source, template, fills)
        if isinstance(node, Slot) and not node.children:
            fills.extend((NOTHING, NOTHING))
        template.append(CLOSE)

    def decode(self, tokens: Sequence[Token], source: Source) -> Frame:
        """See :meth:`Linearization.decode`."""
        template = [token for token in tokens if isinstance(token, str)]
        ends = [token for token in tokens if not isinstance(token, str)]
        fills = iter(zip(ends[::2], ends[1::2], strict=False))
        flat: list[Token | Span] = []
        for before, token in zip(["", *template], template, strict=False):
            leaf = token == TEXT or (token == CLOSE and before.startswith("SL:"))
            if leaf:
                first, last = next(fills, (NOTHING, NOTHING))
                if first != NOTHING:
                    flat.append(_chars(first, last, source))
            if token != TEXT:
                flat.append(token)
        if next(fills, None) is not None or len(ends) % 2:
            raise FrameError(
                "E132",
                f"{len(ends)} endpoints do not fit the template {' '.join(template)}.",
                remedy="Give what encode wrote, for the same utterance.",
            )
        return Frame(_tree(flat), source.text)


def _pieces(span: Span, source: Source) -> tuple[int, int]:
    """First and last piece of a leaf."""
    first, last = bisect_left(source.starts, span.start), bisect_left(source.ends, span.end)
    if (
        first >= len(source)
        or last >= len(source)
        or source.starts[first] != span.start
        or source.ends[last] != span.end
        or source.atoms[first - 1 : first] == source.atoms[first : first + 1]
        or source.atoms[last : last + 1] == source.atoms[last + 1 : last + 2]
    ):
        raise FrameError(
            "E133",
            f"the leaf {source.text[span.start : span.end]!r} does not start and end between words.",
            remedy="Let slots hold whole words, numbers and signs, as frames.tokenization splits them.",
        )
    return first, last


def _chars(first: int, last: int, source: Source) -> Span:
    if not 0 <= first <= last < len(source):
        raise FrameError(
            "E134",
            f"pointers {first}..{last} do not fit an utterance of {len(source)} pieces.",
            remedy="Give what encode wrote, for the same utterance.",
        )
    return Span(source.starts[first], source.ends[last])


def _runs(tokens: Sequence[Token]) -> Iterator[tuple[int, list[int]]]:
    """Maximal runs of pointers with the index of their first."""
    run: list[int] = []
    for i, token in enumerate([*tokens, CLOSE]):
        if isinstance(token, str):
            if run:
                yield i - len(run), run
            run = []
        else:
            run.append(token)


def _steps(tokens: Sequence[Token]) -> Iterator[tuple[bool, list[Token]]]:
    """Ontology tokens one by one, and runs of pointers; with each whether it is a run."""
    runs = dict(_runs(tokens))
    for i, token in enumerate(tokens):
        if i in runs:
            yield True, list(runs[i])
        elif isinstance(token, str):
            yield False, [token]


def _tree(tokens: Sequence[Token | Span]) -> Intent:
    """The tree that brackets and spans spell."""
    stack: list[tuple[str, list[Any]]] = []
    root: Node | None = None
    for token in tokens:
        if root is not None or (not stack and not (isinstance(token, str) and token.startswith("IN:"))):
            raise FrameError(
                "E135",
                f"{token!r} stands outside of the frame.",
                remedy="Give what encode wrote, for the same utterance.",
            )
        if isinstance(token, Span):
            stack[-1][1].append(token)
        elif token == CLOSE:
            opener, children = stack.pop()
            node: Node = (Intent if opener.startswith("IN:") else Slot)(opener[3:], tuple(children))
            if stack:
                stack[-1][1].append(node)
            else:
                root = node
        else:
            assert isinstance(token, str)
            if stack and stack[-1][0][:2] == token[:2]:
                raise FrameError(
                    "E136",
                    f"{token} directly under {stack[-1][0]}; intents and slots alternate.",
                    remedy="Give what encode wrote, for the same utterance.",
                )
            stack.append((token, []))
    if not isinstance(root, Intent):
        raise FrameError(
            "E138", "the brackets are not balanced.", remedy="Give what encode wrote, for the same utterance."
        )
    return root


class TargetIds:
    """Integer ids of tokens: ontology tokens first, then one for each position of the utterance.

    Args:
        ontology: gives the first ``size`` ids.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.ontology = ontology
        self.size = len(ontology.tokens)

    def encode(self, tokens: Sequence[Token]) -> list[int]:
        """Ids of ontology tokens and pointers.

        Raises:
            FrameError: an ontology token that the ontology does not have.
        """
        return [self.ontology.id(token) if isinstance(token, str) else self.size + token for token in tokens]

    def decode(self, ids: Sequence[int]) -> list[Token]:
        """The inverse of :meth:`encode`."""
        names = self.ontology.tokens
        return [names[i] if i < self.size else int(i) - self.size for i in ids]


#: The forms that are sequences of ontology tokens and pointers, by the name that configs use.
POINTER_FORMS: dict[str, type[IndexForm] | type[SpanForm]] = {"index": IndexForm, "span": SpanForm, "copy": CopyForm}
