"""Writing corpora of other layouts in the layout of TOPv2, which everything else reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.topv2.reader import Example, split_folder, write_file
from frames.folders import atomic_folder, write_manifest


def write_corpus(out: Path | str, splits: Mapping[str, Sequence[Example]], about: Mapping[str, Any]) -> dict[str, int]:
    """Writes ``<domain>_<split>.tsv`` for every domain and split.

    Args:
        out: folder to write, whole or not at all.
        splits: rows by the name of their split.
        about: what the folder's manifest says of the corpus.

    Returns:
        Rows of each split.

    Raises:
        CorpusError: an utterance holds a tab or newline.
        UsageError: ``out`` holds anything that this program did not write.
        MachineError: the disk is full.
    """
    with atomic_folder(out) as staging:
        for split, examples in splits.items():
            folder = split_folder(staging, split)
            folder.mkdir(exist_ok=True)
            for domain in sorted({example.domain for example in examples}):
                rows = [example for example in examples if example.domain == domain]
                write_file(folder / f"{domain}_{split}.tsv", rows)
        write_manifest(staging, about)
    return {split: len(examples) for split, examples in splits.items()}
