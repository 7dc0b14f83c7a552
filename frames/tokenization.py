"""Utterances in pieces: subwords with character offsets, split by a rule that reads the raw text alone.

No piece may cross the edge of a slot, or that slot could not be pointed at. Rather than look at the gold
parse, every tokenizer is preceded by one rule: letters, digits, and each other character are apart, and the
clitic ``n't`` is cut off. On every row of TOPv2 train and eval all leaf edges fall on such boundaries.
"""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from frames.errors import BundleError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: One atom per match; a piece never spans two. Onigurama syntax, read by ``tokenizers``.
ATOM = r"▁?(?:[\p{L}\p{M}]+?(?=n['’]t(?![\p{L}\p{M}]))|n(?=['’]t(?![\p{L}\p{M}]))|[\p{L}\p{M}]+|\p{N}+|[^\s▁])"
#: Longest utterance that is parsed, in pieces and special tokens together, as many as BERT and RoBERTa have places for;
#: TOPv2's longest has under 80 pieces.
MAX_PIECES = 512
#: Unicode categories of characters that cannot be seen: controls, formats, surrogates, separators.
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs")


@dataclass(frozen=True, slots=True)
class Edges:
    """Positions of the pieces that begin an atom and of those that end one, in order."""

    firsts: tuple[int, ...]
    lasts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """An utterance in pieces: ``ids[i]`` covers characters ``[starts[i], ends[i])`` of ``text``.

    ``atoms[i]`` numbers the atom of the splitting rule that the piece lies in; slots start and end with whole atoms.
    """

    text: str
    ids: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    atoms: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pieces(self) -> list[str]:
        """The text of each piece."""
        return [self.text[start:end] for start, end in zip(self.starts, self.ends, strict=True)]

    @property
    def edges(self) -> Edges:
        """Where its slots may begin and end."""
        firsts = tuple(i for i, atom in enumerate(self.atoms) if i == 0 or atom != self.atoms[i - 1])
        return Edges(firsts, (*(i - 1 for i in firsts[1:]), len(self) - 1))


class PieceTokenizer:
    """A ``tokenizers.Tokenizer`` whose pieces stay within the atoms of the raw text.

    Args:
        backend: a tokenizer already preceded by the splitting rule (see the constructors below).
        prefix: ids of special tokens that the encoder wants before the pieces (``[CLS]``).
        suffix: ids of special tokens after them (``[SEP]``).
        pad_id: id that pads batches.
    """

    def __init__(
        self, backend: Tokenizer, prefix: Sequence[int] = (), suffix: Sequence[int] = (), pad_id: int = 0
    ) -> None:
        self.backend = backend
        self.prefix, self.suffix, self.pad_id = tuple(prefix), tuple(suffix), pad_id
        backend.no_truncation()
        backend.no_padding()

    @property
    def longest(self) -> int:
        """Pieces that an utterance may have, which leaves places for the special tokens."""
        return MAX_PIECES - len(self.prefix) - len(self.suffix)

    @property
    def vocab_size(self) -> int:
        """Number of piece ids."""
        return self.backend.get_vocab_size()

    def __call__(self, utterance: str) -> Source:
        """The utterance in pieces, without special tokens.

        Raises:
            UsageError: the utterance is blank, no valid Unicode, or longer than :attr:`longest`.
        """
        return self.batch([utterance])[0]

    def batch(self, utterances: Sequence[str]) -> list[Source]:
        """As :meth:`__call__` for many utterances at once."""
        try:
            encodings = self.backend.encode_batch(list(utterances), add_special_tokens=False)
        except TypeError as error:
            wrong = next((text for text in utterances if any("\ud800" <= c <= "\udfff" for c in text)), None)
            if wrong is None:
                raise
            raise UsageError(
                "E412", f"the utterance {wrong[:20]!r} is no valid Unicode.", remedy="Pass text in UTF-8."
            ) from error
        return [self._source(text, encoding) for text, encoding in zip(utterances, encodings, strict=True)]

    def _source(self, text: str, encoding: Any) -> Source:
        ids: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        atoms: list[int] = []
        for piece, (start, end), atom in zip(encoding.ids, encoding.offsets, encoding.word_ids, strict=True):
            # A piece may begin with the space before its word; offsets are of what can be pointed at.
            while start < end and text[start].isspace():
                start += 1
            if start < end:
                if starts and start < ends[-1]:
                    # A word mark alone, before a word of unknown characters, stands on its first character.
                    for column in (ids, starts, ends, atoms):
                        column.pop()
                ids.append(piece)
                starts.append(start)
                ends.append(end)
                atoms.append(atom)
        if not ids or all(unicodedata.category(character) in _INVISIBLE for character in text):
            raise UsageError(
                "E410", f"the utterance {text[:20]!r} holds no word.", remedy="Pass at least one visible character."
            )
        if len(ids) > self.longest:
            raise UsageError(
                "E411",
                f"the utterance of {len(text)} characters makes {len(ids)} pieces; {self.longest} are read at most.",
                remedy="Pass one request at a time.",
            )
        # An encoder's normalizer may drop accents; a mark belongs to the character before it all the same.
        for i, following in enumerate((*starts[1:], len(text))):
            while ends[i] < following and unicodedata.category(text[ends[i]]).startswith("M"):
                ends[i] += 1
        return Source(text, tuple(ids), tuple(starts), tuple(ends), tuple(atoms))

    def save(self, path: Path | str) -> None:
        """Writes ``tokenizer.json`` with the special ids beside the vocabulary."""
        from frames.files import write_text

        write_text(path, self.to_json())

    def to_json(self) -> str:
        """The tokenizer and its special ids as one JSON text."""
        special = {"prefix": self.prefix, "suffix": self.suffix, "pad_id": self.pad_id}
        return json.dumps({"special": special, "tokenizer": json.loads(self.backend.to_str())}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "") -> PieceTokenizer:
        """The inverse of :meth:`to_json`.

        Raises:
            BundleError: the text is not what :meth:`to_json` writes.
        """
        try:
            special, tokenizer = _parts(text)
            return cls(Tokenizer.from_str(tokenizer), **special)
        except Exception as error:  # tokenizers raises bare Exception for a malformed file
            raise BundleError(
                "E312", f"not a framefill tokenizer ({error}).", where=where, remedy="Export again."
            ) from error

    @classmethod
    def train_sentencepiece(
        cls, utterances: Iterable[str], vocab_size: int = 6000, lowercase: bool = True
    ) -> PieceTokenizer:
        """Trains SentencePiece unigram pieces on training utterances (Kudo and Richardson 2018).

        The trained vocabulary is handed to ``tokenizers`` so that training and the torch-free runtime cut the
        same pieces with the same offsets.

        Args:
            utterances: raw training utterances.
            vocab_size: pieces wanted; fewer are made when the text has no more.
            lowercase: fold case before cutting, as the conv NAR parser does.

        Raises:
            UsageError: there are too few pieces for the characters of the utterances, or no words.
        """
        import sentencepiece

        with tempfile.TemporaryDirectory() as folder:
            prefix = str(Path(folder) / "pieces")
            lines = (utterance.lower() if lowercase else utterance for utterance in utterances)
            try:
                sentencepiece.SentencePieceTrainer.train(
                    sentence_iterator=iter(lines),
                    model_prefix=prefix,
                    vocab_size=vocab_size,
                    hard_vocab_limit=False,
                    character_coverage=1.0,
                    normalization_rule_name="identity",
                    pad_id=0,
                    unk_id=1,
                    bos_id=-1,
                    eos_id=-1,
                    num_threads=1,  # more threads change the result from run to run
                    minloglevel=2,
                )
            except (RuntimeError, ValueError) as error:
                reason = re.sub(r"^.*\] |\. Increase .*$|\.$", "", str(error).strip())
                raise UsageError(
                    "E458",
                    f"a vocabulary of {vocab_size} pieces cannot be trained on these utterances ({reason}).",
                    remedy="Give --data.vocabulary more pieces than the utterances have characters, 6000 as a rule.",
                ) from error
            processor = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
        vocabulary = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]
        backend = Tokenizer(models.Unigram(vocabulary, unk_id=1))
        if lowercase:
            backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.WhitespaceSplit(),
                pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
                _by_atoms(),
            ]
        )
        return cls(backend, pad_id=0)

    @classmethod
    def from_pretrained(cls, name: str) -> PieceTokenizer:
        """The tokenizer of any Hugging Face encoder (see :func:`locate`), with the splitting rule put before it.

        Raises:
            UsageError: the tokenizer cannot be had here, or has no fast form.
        """
        from transformers import AutoTokenizer

        from frames.weights import locate

        place = locate(name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(place.folder, gguf_file=place.gguf_file, use_fast=True)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                "E421",
                f"the tokenizer of {name!r} cannot be loaded ({reason}).",
                remedy="Give a folder that holds tokenizer.json, or a hub name where there is a network.",
            ) from error
        return cls.from_transformers(tokenizer)

    @classmethod
    def from_transformers(cls, tokenizer: PreTrainedTokenizerBase) -> PieceTokenizer:
        """As :meth:`from_pretrained`, from a loaded tokenizer."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UsageError(
                "E420",
                f"{type(tokenizer).__name__} has no fast form.",
                remedy="Use an encoder whose folder holds tokenizer.json.",
            )
        encoded = tokenizer("a", return_special_tokens_mask=True)
        marks = list(encoded["special_tokens_mask"])
        first, last = marks.index(0), len(marks) - marks[::-1].index(0)
        backend = Tokenizer.from_str(backend.to_str())
        backend.pre_tokenizer = with_atoms(backend.pre_tokenizer)
        return cls(backend, encoded["input_ids"][:first], encoded["input_ids"][last:], tokenizer.pad_token_id or 0)


def _parts(text: str) -> tuple[dict[str, Any], str]:
    """The special ids in the text that :meth:`PieceTokenizer.to_json` writes, and the tokenizer as JSON text.

    The tokenizer is most of the text, so it is cut out where it can be, rather than read and written again.
    """
    before, between = '{"special": ', ', "tokenizer": '
    if text.startswith(before):
        special, end = json.JSONDecoder().raw_decode(text, len(before))
        if text.startswith(between, end):
            return special, text[end + len(between) :].rstrip().removesuffix("}")
    value = json.loads(text)
    return value["special"], json.dumps(value["tokenizer"])


def _by_atoms() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(ATOM), behavior="isolated")


def with_atoms(original: pre_tokenizers.PreTokenizer | None) -> pre_tokenizers.PreTokenizer:
    """``original`` with the splitting rule in its place.

    A byte-level pre-tokenizer rewrites characters into its byte alphabet, so the rule must read the text before
    it; the others add word marks that the rule must see, so it goes after them.
    """
    if original is None:
        return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), _by_atoms()])
    if "ByteLevel" in repr(original):
        before = pre_tokenizers.Split(Regex(r"\s?" + ATOM.replace("▁?", "", 1)), behavior="isolated")
        return pre_tokenizers.Sequence([before, original])
    return pre_tokenizers.Sequence([original, _by_atoms()])
