"""Scenarios: frames without their words; and their glosses, in natural language.

A scenario is a frame in the span form with :data:`TEXT` in place of every pair of endpoints. Filled with spans, it is a
frame again (Shrivastava et al. 2022, arXiv 2202.00901).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

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
        """Reads ``[IN:CREATE_ALARM [SL:DATE_TIME ] ]``, as people write it, or the form of :attr:`text`.

        Where no slot has a star, every slot without children holds text. Words directly under an intent are left out.

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
            FrameError: the number of spans is not that of the leaves.
        """
        if len(spans) != self.leaves:
            raise FrameError(
                "E140",
                f"{len(spans)} spans for the {self.leaves} leaves of {self.text}.",
                remedy="Give one for each childless slot, in their order.",
            )
        filled: list[Token] = []
        given = iter(spans)
        for token in self.tokens:
            if token == TEXT:
                filled += next(given)
            else:
                filled.append(token)
        return filled

    def gloss(self, style: str = "intrinsic") -> Gloss:
        """The scenario in natural language.

        Args:
            style: a name in :data:`STYLES`.

        Raises:
            ValueError: another style.
        """
        if style not in STYLES:
            raise ValueError(f"gloss style {style!r}: one of {sorted(STYLES)}")
        words: list[str] = []
        leaves: list[int] = []
        length = 0

        def write(word: str) -> None:
            nonlocal length
            length += len(word) + bool(words)
            words.append(word)

        for i, token in enumerate(self.tokens):
            if token == TEXT:
                # A leaf alone in its slot is at the slot's name, which says more than the word "text".
                if self.tokens[i - 1].startswith("SL:") and self.tokens[i + 1] == CLOSE:
                    leaves.append(length - len(words[-1]))
                else:
                    write("text")
                    leaves.append(length - len("text"))
            elif token == CLOSE:
                write(CLOSE)
            else:
                before, name = STYLES[style](token)
                for word in (*before, name):
                    write(word)
        return Gloss(" ".join(words), tuple(leaves))


@dataclass(frozen=True, slots=True)
class Gloss:
    """A scenario in words.

    Attributes:
        text: the input of an encoder.
        leaves: for each leaf the character offset of the name of its slot, or of the word "text".
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


#: Styles of a gloss: the paper's intrinsic names with their kinds (after Desai et al. 2021), names alone, or raw labels.
GlossStyle = Literal["intrinsic", "names", "labels"]
#: Each style as a function of an opening token that gives the words before the name, and the name.
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
