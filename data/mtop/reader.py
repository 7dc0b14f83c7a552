"""Reading the official MTOP layout, ``<locale>/<split>.txt``.

A row has eight columns and no header: id, intent, slots, utterance, domain, locale, decoupled frame, and JSON with the
tokens that the frame's words are. The frame has lost the words that no slot holds, and with them the offsets; each
leaf is found again as the leftmost run of tokens after the leaf before it, and the other words go to the intent that
they stand in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from data.topv2.reader import Example, read_lines, write_file
from frames.errors import CorpusError, FrameError
from frames.folders import whole_folder, write_manifest
from frames.frame import Frame
from frames.nodes import Intent, Slot, Span

COLUMNS = ("id", "intent", "slots", "utterance", "domain", "locale", "decoupled frame", "tokens")
SPLITS = ("train", "eval", "test")

N = TypeVar("N", Intent, Slot)


def read_file(path: Path | str) -> list[Example]:
    """All rows of one locale and split.

    Raises:
        CorpusError: the file is missing, empty or not UTF-8, or a row has other columns or no tokens.
        FrameError: a malformed frame, or one whose words are not those of the utterance in their order.
    """
    return [_row(line, f"{path}:{number}") for number, line in enumerate(read_lines(path), start=1)]


def convert(root: Path | str, locale: str, out: Path | str) -> dict[str, int]:
    """Writes one locale in the TOPv2 layout, which everything else here reads.

    Args:
        root: folder with one folder for each locale.
        locale: its name, ``en`` for instance.
        out: folder of ``<domain>_<split>.tsv`` files to write, whole or not at all.

    Returns:
        Rows of each split.

    Raises:
        CorpusError: no such locale, or see :func:`read_file`.
        UsageError: ``out`` holds anything that this program did not write.
        MachineError: the disk is full.
    """
    folder = Path(root) / locale
    if not folder.is_dir():
        there = sorted(path.name for path in Path(root).glob("*") if (path / "train.txt").exists())
        raise CorpusError(
            "E241", f"there is no locale {locale!r}.", where=str(root), remedy=f"There: {', '.join(there) or 'none'}."
        )
    rows = {}
    with whole_folder(out) as staging:
        for split in SPLITS:
            examples = read_file(folder / f"{split}.txt")
            for domain in sorted({example.domain for example in examples}):
                chosen = [example for example in examples if example.domain == domain]
                write_file(staging / f"{domain}_{split}.tsv", chosen)
            rows[split] = len(examples)
        write_manifest(staging, {"corpus": "MTOP", "locale": locale})
    return rows


def _row(line: str, where: str) -> Example:
    columns = line.split("\t")
    if len(columns) != len(COLUMNS):
        raise CorpusError(
            "E242",
            f"{len(columns)} column(s) instead of {len(COLUMNS)}: {line[:60]!r}.",
            where=where,
            remedy=f"A row of MTOP is {', '.join(COLUMNS)}, separated by tabs.",
        )
    utterance, domain, text = columns[3], columns[4], columns[6]
    try:
        tokens = list(_located(json.loads(columns[7])["tokens"], utterance))
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            "E243",
            f"column 8 holds no tokens of the utterance ({error}).",
            where=where,
            remedy='It should be JSON such as {"tokens": ["wake", "me"]}, the words of column 4.',
        ) from error
    try:
        bare = Frame.parse(text, where=f"{where}, column 7")
        root, _ = _placed(bare.root, bare.utterance, utterance, tokens, 0)
        return Example(domain, utterance, Frame(_full(root, 0, len(utterance), utterance), utterance))
    except FrameError as error:
        raise (
            error
            if error.where
            else FrameError(error.code, error.what, where=f"{where}, column 7", remedy=error.remedy)
        ) from error


def _located(tokens: list[str], utterance: str) -> Iterator[Span]:
    """Where each token stands in the utterance."""
    end = 0
    for token in tokens:
        start = utterance.find(token, end)
        if start < 0 or not token:
            raise ValueError(f"{token!r} is not in the utterance after character {end}")
        end = start + len(token)
        yield Span(start, end)


def _placed(node: N, words: str, utterance: str, tokens: list[Span], begin: int) -> tuple[N, int]:
    """A node with its leaves found among the tokens from ``begin`` on, and the token after the last of them."""
    children: list[Any] = []
    for child in node.children:
        if isinstance(child, Span):
            if isinstance(node, Intent):
                continue
            wanted = words[child.start : child.end].split()
            begin = _leftmost(wanted, utterance, tokens, begin)
            children.append(Span(tokens[begin].start, tokens[begin + len(wanted) - 1].end))
            begin += len(wanted)
        else:
            placed, begin = _placed(child, words, utterance, tokens, begin)
            children.append(placed)
    return type(node)(node.label, tuple(children)), begin


def _full(intent: Intent, begin: int, end: int, utterance: str) -> Intent:
    """The intent with all text from ``begin`` to ``end`` that none of its slots holds, as TOPv2 writes frames."""
    children: list[Any] = []
    for slot in intent.children:
        assert isinstance(slot, Slot)
        spans = list(Frame(Intent("", (slot,)), utterance).spans())
        if spans:
            children += _text(utterance, begin, spans[0].start)
            begin = spans[0].start
        inner = []
        for child in slot.children:
            if isinstance(child, Intent):
                ends = [span.end for span in Frame(child, utterance).spans()]
                # Text between two parts of a slot goes to the intent after it, for in the slot it would be its value.
                child, begin = _full(child, begin, max(ends, default=begin), utterance), max(ends, default=begin)
            else:
                begin = child.end
            inner.append(child)
        children.append(Slot(slot.label, tuple(inner)))
    return Intent(intent.label, (*children, *_text(utterance, begin, end)))


def _text(utterance: str, begin: int, end: int) -> list[Span]:
    """The span of what is not white at the edges, if anything is."""
    text = utterance[begin:end]
    left = begin + len(text) - len(text.lstrip())
    return [Span(left, left + len(text.strip()))] if text.strip() else []


def _leftmost(wanted: list[str], utterance: str, tokens: list[Span], begin: int) -> int:
    texts = [utterance[span.start : span.end] for span in tokens]
    for place in range(begin, len(tokens) - len(wanted) + 1):
        if texts[place : place + len(wanted)] == wanted:
            return place
    raise FrameError(
        "E113",
        f"the words {' '.join(wanted)!r} do not stand in the utterance after those before them.",
        remedy="Leaves follow the utterance; correct the row.",
    )
