"""Scenarios: frames without their words, and what they read like in natural language.

A scenario is a frame in the span form whose pairs of endpoints are each replaced by :data:`TEXT`. It says which spans
are to be found, and giving it spans makes it a frame again (Shrivastava et al. 2022, arXiv 2202.00901).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from frames.errors import FrameError
from frames.frame import Frame
from frames.linearization import TEXT, Token
from frames.nodes import Intent, Node, Span
from frames.ontology import CLOSE


@dataclass(frozen=True)
class Scenario:
    """A frame's template.

    Attributes:
        tokens: ontology tokens, and :data:`TEXT` for every leaf: ``("IN:A", "SL:B", "*", "]", "]")``.
    """

    tokens: tuple[str, ...]

    @classmethod
    def from_frame(cls, frame: Frame) -> Scenario:
        """The scenario of a frame; text that no slot owns is left out."""
        return cls(tuple(_tokens(frame.decoupled().root)))

    @classmethod
    def parse(cls, text: str) -> Scenario:
        """Reads ``[IN:CREATE_ALARM [SL:DATE_TIME ] ]``, as people write it, or what :attr:`text` gives.

        A slot without children holds text, unless some slot of the scenario says so itself with a star. Words that stand
        directly under an intent are left out.

        Raises:
            FrameError: the brackets or labels are malformed.
        """
        tokens = cls.from_frame(Frame.parse(text)).tokens
        if TEXT in text.split():
            return cls(tokens)
        marked: list[str] = []
        for token in tokens:
            if token == CLOSE and marked[-1].startswith("SL:"):
                marked.append(TEXT)
            marked.append(token)
        return cls(tuple(marked))

    @cached_property
    def leaves(self) -> int:
        """Number of spans to find."""
        return self.tokens.count(TEXT)

    @property
    def text(self) -> str:
        """The bracketed form, a star for every leaf."""
        return " ".join(f"[{token}" if token not in (TEXT, CLOSE) else token for token in self.tokens)

    def __str__(self) -> str:
        return self.text

    def fill(self, spans: Sequence[tuple[int, int]]) -> list[Token]:
        """The span form (:class:`frames.linearization.SpanForm`) with these first and last pieces as its leaves.

        Raises:
            FrameError: there are more or fewer spans than leaves.
        """
        if len(spans) != self.leaves:
            raise FrameError("E140", f"{len(spans)} spans for the {self.leaves} leaves of {self.text}.")
        filled: list[Token] = []
        given = iter(spans)
        for token in self.tokens:
            if token == TEXT:
                filled += next(given)
            else:
                filled.append(token)
        return filled

    def gloss(self, style: str = "intrinsic") -> Gloss:
        """What the scenario reads like.

        Args:
            style: a name in :data:`STYLES`.

        Raises:
            ValueError: another style.
        """
        if style not in STYLES:
            raise ValueError(f"gloss style {style!r}: one of {sorted(STYLES)}")
        words: list[str] = []
        places: list[int] = []
        length = 0

        def write(word: str) -> None:
            nonlocal length
            length += len(word) + bool(words)
            words.append(word)

        for i, token in enumerate(self.tokens):
            if token == TEXT:
                # Alone in its slot, a leaf stands at the slot's name, which names it better than a word of its own.
                if self.tokens[i - 1].startswith("SL:") and self.tokens[i + 1] == CLOSE:
                    places.append(length - len(words[-1]))
                else:
                    write("text")
                    places.append(length - len("text"))
            elif token == CLOSE:
                write(CLOSE)
            else:
                before, name = STYLES[style](token)
                for word in (*before, name):
                    write(word)
        return Gloss(" ".join(words), tuple(places))


@dataclass(frozen=True, slots=True)
class Gloss:
    """A scenario in words.

    Attributes:
        text: what an encoder reads.
        leaves: for each leaf the character at which the name stands that its span belongs to.
    """

    text: str
    leaves: tuple[int, ...]


def _intrinsic(token: str) -> tuple[tuple[str, ...], str]:
    kind = "intent" if token.startswith("IN:") else "slot"
    return ("[", kind, "|"), _name(token)


def _names(token: str) -> tuple[tuple[str, ...], str]:
    return ("[",), _name(token)


def _labels(token: str) -> tuple[tuple[str, ...], str]:
    return (), f"[{token}"


def _name(token: str) -> str:
    return token[3:].replace("_", " ").lower()


#: Ways to put an opening token into words (what comes before the name, and the name): the paper's intrinsic names with
#: their kinds (after Desai et al. 2021), names alone, and labels as they are.
STYLES: dict[str, Callable[[str], tuple[tuple[str, ...], str]]] = {
    "intrinsic": _intrinsic,
    "names": _names,
    "labels": _labels,
}


def _tokens(node: Node) -> Iterator[str]:
    yield f"{'IN' if isinstance(node, Intent) else 'SL'}:{node.label}"
    for child in node.children:
        if isinstance(child, Span):
            yield TEXT
        else:
            yield from _tokens(child)
    yield CLOSE
