"""The embedded synthetic corpus: a seeded grammar in TOPv2's layout, for machines that do not have TOPv2.

It is made to be honest work for a parser: labels hang on context, the values of almost a third of the evaluation rows
are made of words that training never showed, and some rows hold scenarios that it never showed.
"""

from __future__ import annotations

import hashlib
import random
import re
from pathlib import Path

from data.synthetic.grammar import FRAGMENTS, TEMPLATES
from data.synthetic.lexicon import HELD_OUT, LEXICON
from data.topv2.reader import Example, write_file
from frames.folders import atomic_folder, write_manifest
from frames.frame import Frame

_CHOICE = re.compile(r"\(([^()]*)\)")
_NAME = re.compile(r"@([a-z_]+)")
_ATTACHED = ("'s", ".", "?", "!")
#: Share of evaluation rows whose values may be ones that training never shows.
UNSEEN_VALUES = 0.3
#: One in this many scenarios with two slots or more is kept from training.
UNSEEN_SCENARIOS = 12


def generate(
    seed: int = 0, train: int = 16_000, evaluation: int = 2_000, test: int = 2_000
) -> dict[str, list[Example]]:
    """Draws the corpus.

    Args:
        seed: the same seed gives the same rows everywhere.
        train: rows of the training split.
        evaluation: rows of the eval split.
        test: rows of the test split.

    Returns:
        Rows by split; no utterance stands in two splits or has two frames.
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    split_of = {"train": train, "eval": evaluation, "test": test}
    rows: dict[str, list[Example]] = {}
    for split, size in split_of.items():
        rows[split] = []
        while len(rows[split]) < size:
            held_out = split != "train" and rng.random() < UNSEEN_VALUES
            domain = rng.choice(sorted(TEMPLATES))
            example = _draw(rng, domain, held_out)
            key = example.utterance.casefold()
            if key in seen or (split == "train" and _withheld(example.frame)):
                continue
            seen.add(key)
            rows[split].append(example)
    return rows


def write_corpus(
    root: Path | str, seed: int = 0, train: int = 16_000, evaluation: int = 2_000, test: int = 2_000
) -> Path:
    """Writes ``<domain>_<split>.tsv`` files, the whole folder or nothing.

    Raises:
        UsageError: ``root`` holds anything that this program did not write.
        MachineError: the disk is full or the folder cannot be written.
    """
    root = Path(root)
    with atomic_folder(root) as folder:
        for split, examples in generate(seed, train, evaluation, test).items():
            for domain in TEMPLATES:
                rows = [example for example in examples if example.domain == domain]
                if rows:
                    write_file(folder / f"{domain}_{split}.tsv", rows, [_spaced(str(row.frame)) for row in rows])
        write_manifest(folder, {"corpus": "synthetic", "seed": seed})
    return root


def _draw(rng: random.Random, domain: str, held_out: bool) -> Example:
    text = _expand(rng, rng.choice(TEMPLATES[domain]), held_out)
    # A clitic and closing punctuation are written without a space, as people do; the brackets lie between words.
    tokens = re.sub(r"([.?!])(?= |$)", r" \1", text).split()
    utterance = ""
    for token in tokens:
        if token.startswith(("[IN:", "[SL:")) or token == "]":
            continue
        utterance += token if token in _ATTACHED or not utterance else f" {token}"
    if rng.random() < 0.3:
        utterance = utterance[0].upper() + utterance[1:]
        first = next(i for i, token in enumerate(tokens) if not token.startswith("["))
        tokens[first] = tokens[first][0].upper() + tokens[first][1:]
    return Example(domain, utterance, Frame.parse(" ".join(tokens), utterance))


def _expand(rng: random.Random, text: str, held_out: bool) -> str:
    """Replaces choices and names until none is left."""
    while name := _NAME.search(text):
        text = text[: name.start()] + rng.choice(_values(name[1], held_out)) + text[name.end() :]
    # Names first: a choice may stand right behind one, and would otherwise lengthen it.
    while choice := _CHOICE.search(text):
        text = text[: choice.start()] + rng.choice(choice[1].split("|")) + text[choice.end() :]
    return text


def _values(name: str, held_out: bool) -> tuple[str, ...]:
    if name in FRAGMENTS:
        return FRAGMENTS[name]
    values = LEXICON[name]
    if name not in HELD_OUT:
        return values
    known = len(values) - max(1, len(values) // 5)
    return values[known:] if held_out else values[:known]


def _withheld(frame: Frame) -> bool:
    """Whether the scenario is one that only evaluation shows; told by its name alone, so it holds for every seed."""
    if sum(1 for _ in frame.slots()) < 3:
        return False
    return int(hashlib.sha256(frame.scenario().encode()).hexdigest(), 16) % UNSEEN_SCENARIOS == 0


def _spaced(parse: str) -> str:
    """The parse's own tokenization, which parts what the raw text joins, as in the official files."""
    return re.sub(r"(?<=\w)('s\b)", r" \1", re.sub(r"(\d)([ap]m)\b", r"\1 \2", parse))
