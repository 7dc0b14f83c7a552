"""Share of frames that each linearization gives back exactly, for three families of tokenizers.

    python -m benchmarks.coverage --data-root $TOPV2_DIR

The tokenizers are trained on the training utterances; pointer forms are asked for decoupled frames (what parsers
predict and what exact match compares), the canonical form for full ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from data.topv2.reader import Example, corpus_checksum, data_root, read_split
from frames.files import write_json
from frames.linearization import Canonical, IndexForm, ScenarioForm, SpanForm
from frames.tokenization import PieceTokenizer, with_atoms

#: Forms that point at pieces of the utterance, for decoupled frames.
POINTER = (IndexForm(), SpanForm(), ScenarioForm())


def wordpiece(utterances: Sequence[str], vocabulary: int) -> PieceTokenizer:
    """WordPiece behind BERT's splitting."""
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=["[UNK]"], show_progress=False)
    return _trained(models.WordPiece(unk_token="[UNK]"), trainer, pre_tokenizers.BertPreTokenizer(), utterances)


def byte_level_bpe(utterances: Sequence[str], vocabulary: int) -> PieceTokenizer:
    """BPE over bytes, as RoBERTa's."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    return _trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False), utterances)


def _trained(model: Any, trainer: Any, before: Any, utterances: Sequence[str]) -> PieceTokenizer:
    backend = Tokenizer(model)
    backend.pre_tokenizer = before
    backend.train_from_iterator(utterances, trainer)
    backend.pre_tokenizer = with_atoms(backend.pre_tokenizer)
    return PieceTokenizer(backend)


#: Families of subword tokenizers; each takes utterances and the size of the vocabulary.
FAMILIES: dict[str, Callable[[Sequence[str], int], PieceTokenizer]] = {
    "sentencepiece": PieceTokenizer.train_sentencepiece,
    "wordpiece": wordpiece,
    "byte-level-bpe": byte_level_bpe,
}


def covered(examples: Sequence[Example], tokenizer: PieceTokenizer) -> dict[str, int]:
    """How many of the decoupled frames ``decode(encode(frame))`` gives back, by form that points at pieces."""
    counts = {type(form).__name__: 0 for form in POINTER}
    for example, source in zip(examples, tokenizer.batch([e.utterance for e in examples]), strict=True):
        decoupled = example.frame.decoupled()
        for form in POINTER:
            counts[type(form).__name__] += form.decode(form.encode(decoupled, source), source) == decoupled
    return counts


def canonical(examples: Sequence[Example], tokenizer: PieceTokenizer) -> int:
    """How many of the full frames the canonical form gives back; the pieces play no part in it."""
    form, sources = Canonical(), tokenizer.batch([example.utterance for example in examples])
    return sum(
        form.decode(form.encode(example.frame, source), source) == example.frame
        for example, source in zip(examples, sources, strict=True)
    )


def main() -> None:
    """Counts, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data-root")
    options.add_argument("--vocabulary", type=int, default=6000)
    options.add_argument("--out", type=Path, default=Path("results/coverage.json"))
    given = options.parse_args()
    root = data_root(given.data_root)
    splits = {split: read_split(root, split) for split in ("train", "eval")}
    utterances = [example.utterance for example in splits["train"]]
    result: dict[str, Any] = {"rows": {split: len(rows) for split, rows in splits.items()}, "exact": {}}
    for name, train in FAMILIES.items():
        tokenizer = train(utterances, given.vocabulary)
        result["exact"][name] = {split: covered(rows, tokenizer) for split, rows in splits.items()}
        print(name, result["exact"][name], flush=True)
    result["canonical"] = {split: canonical(rows, tokenizer) for split, rows in splits.items()}
    print("canonical", result["canonical"], flush=True)
    write_json(given.out, {**result, "data_checksum": {split: corpus_checksum(root, split) for split in splits}})


if __name__ == "__main__":
    main()
