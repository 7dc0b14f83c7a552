"""How a language model writes a frame: each symbol of the copy form as one token or several.

A **symbol** is an id of :class:`frames.linearization.TargetIds` in the copy form: an ontology token, a pointer to a
piece, or a pointer past the last piece, which passes over a place that reads the same. Two styles spell them:

========== ===================================================================================================
``labels`` ours: an ontology token is one new token of the vocabulary, ``[IN:CREATE_ALARM [SL:DATE_TIME at 8 ] ]``
``json``   the paper's (section 5.2): ``{"intent": "CREATE_ALARM", "slots": [{"slot": "DATE_TIME", "text": "at 8"}]}``
========== ===================================================================================================

In both, the words of the utterance are copied as the very pieces that the prompt has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from frames.errors import UsageError
from frames.ontology import CLOSE, Ontology
from frames.tokenization import PieceTokenizer

Style = Literal["labels", "json"]
#: New tokens beside the ontology's: what passes over a place, and what ends the prompt.
EXTRA = 2


class Spelling:
    """Token sequences of symbols.

    Args:
        ontology: its tokens are the first symbols.
        vocabulary: size of the language model's own vocabulary; new tokens follow it.
        style: ``labels`` or ``json``.
        spell: text to piece ids of the language model's own vocabulary; needed for ``json`` alone.
        read: piece ids to text, by which it is checked that pieces spell a label; None leaves the check out.

    Attributes:
        size: number of ontology symbols.
        vocab_size: the language model's vocabulary and the new tokens.
        pass_over: id of the token that passes over a place.
        prompt_end: id of the token between an utterance and its frame.
        longest_node: tokens that an intent or a slot takes at most, what it holds left out.

    Raises:
        UsageError: the pieces cannot spell a label.
    """

    def __init__(
        self,
        ontology: Ontology,
        vocabulary: int,
        style: Style = "labels",
        spell: Callable[[str], Sequence[int]] | None = None,
        read: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        self.ontology, self.vocabulary, self.style = ontology, vocabulary, style
        self.size = len(ontology.tokens)
        self.pass_over = vocabulary + self.size
        self.prompt_end = self.pass_over + 1
        self.vocab_size = vocabulary + self.size + EXTRA
        self.close = ontology.id(CLOSE)
        self._json: dict[tuple[int, int], tuple[int, ...]] = {}
        if style == "json":
            if spell is None:
                raise ValueError("style json needs the tokenizer of the language model")
            self._spell_json(spell, read)
        labels = [symbol for symbol in range(self.size) if symbol != self.close]
        self.longest_node = (
            max(len(self.open(symbol, False)) + len(self.end(symbol, True)) for symbol in labels)
            + max(len(self.text()), len(self.nested()))
        )  # fmt: skip

    @classmethod
    def of(cls, ontology: Ontology, tokenizer: PieceTokenizer, style: Style) -> Spelling:
        """With the pieces of a tokenizer as the language model's own vocabulary."""

        def spell(text: str) -> list[int]:
            return list(tokenizer.backend.encode(text, add_special_tokens=False).ids)

        def read(ids: Sequence[int]) -> str:
            return tokenizer.backend.decode(list(ids), skip_special_tokens=False)

        return cls(ontology, tokenizer.vocab_size, style, spell, read)

    def open(self, symbol: int, first: bool) -> tuple[int, ...]:
        """Tokens that open an intent or a slot.

        Args:
            symbol: of the label.
            first: whether it is the first child of what it stands in.
        """
        return (self.vocabulary + symbol,) if self.style == "labels" else self._json[symbol, 0 if first else 1]

    def text(self) -> tuple[int, ...]:
        """Tokens between the opening of a slot and its text."""
        return () if self.style == "labels" else self._json[self.close, 0]

    def nested(self) -> tuple[int, ...]:
        """Tokens between the opening of a slot and a nested intent."""
        return () if self.style == "labels" else self._json[self.close, 1]

    def end(self, symbol: int, text: bool) -> tuple[int, ...]:
        """Tokens that close an intent or a slot.

        Args:
            symbol: of the label.
            text: whether it is a slot that holds text.
        """
        if self.style == "labels":
            return (self.vocabulary + self.close,)
        return self._json[symbol, 3 if text else 2]

    def _spell_json(self, spell: Callable[[str], Sequence[int]], read: Callable[[Sequence[int]], str] | None) -> None:
        def plain(text: str) -> str:
            """Without what tokenizers may change and labels do not differ in."""
            return "".join(text.split()).casefold()

        def spelled(text: str) -> tuple[int, ...]:
            ids = tuple(int(i) for i in spell(text))
            lost = read is not None and plain(read(ids)) != plain(text)
            if lost or not ids or any(not 0 <= i < self.vocabulary for i in ids):
                raise UsageError(
                    "E480",
                    f"the language model's tokenizer cannot spell {text!r}.",
                    remedy="Use a tokenizer of bytes, or layerskip's target style labels.",
                )
            return ids

        self._json[self.close, 0] = spelled(', "text": "')
        self._json[self.close, 1] = spelled(', "value": ')
        for symbol, token in enumerate(self.ontology.tokens):
            kind, _, label = token.partition(":")
            if kind == "IN":
                opening = '{"intent": "' + label + '", "slots": ['
                self._json[symbol, 0] = self._json[symbol, 1] = spelled(opening)
                self._json[symbol, 2] = self._json[symbol, 3] = spelled("]}")
            elif kind == "SL":
                opening = '{"slot": "' + label + '"'
                self._json[symbol, 0], self._json[symbol, 1] = spelled(opening), spelled(", " + opening)
                self._json[symbol, 2], self._json[symbol, 3] = spelled("}"), spelled('"}')
