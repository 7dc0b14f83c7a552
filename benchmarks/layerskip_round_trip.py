"""Whether the copy form and the automaton of LayerSkip read back every frame of a corpus.

``python -m benchmarks.layerskip_round_trip --data-root $TOPV2_DIR``

The ontology is that of all rows, for a few eval rows have labels that training lacks. For each row: encoding and decoding give the frame again, and the automaton, stepping over the tokens of the gold frame,
accepts each and ends with the frame. Where the parser's automaton, which does not write slots that hold an intent and a
span, refuses, one that does (``mixed``) is asked; these rows are counted beside.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from rich.progress import track

from data.topv2.reader import Example, corpus_checksum, data_root, read_split
from frames.errors import FrameError
from frames.files import write_json
from frames.frame import Frame
from frames.linearization import CopyForm, TargetIds
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer, Source
from lightning_modules.evaluation import environment
from parsers.layerskip.automaton import FrameAutomaton, spelled
from parsers.layerskip.spelling import Spelling

SPLITS = ("train", "eval")
CHUNK = 4096


def main() -> None:
    """Reads all rows back, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data-root")
    options.add_argument("--tokenizer", type=Path, default=Path("models/conv-nar-topv2/tokenizer.json"))
    options.add_argument("--out", type=Path, default=Path("results/layerskip/round_trip.json"))
    given = options.parse_args()
    root = data_root(given.data_root)
    rows = {split: read_split(root, split) for split in SPLITS}
    tokenizer = PieceTokenizer.from_json(given.tokenizer.read_text(encoding="utf-8"), str(given.tokenizer))
    trip = RoundTrip(tokenizer, Ontology.from_frames([row.frame.decoupled() for some in rows.values() for row in some]))
    record = {
        split: {"rows": len(some), **trip.counts(some, split), "checksum": corpus_checksum(root, split)}
        for split, some in rows.items()
    }
    write_json(given.out, {**record, "tokenizer": given.tokenizer.parent.name, "environment": environment()})
    print(record)


class RoundTrip:
    """Reads frames back.

    Args:
        tokenizer: cuts utterances.
        ontology: labels and nesting.
    """

    def __init__(self, tokenizer: PieceTokenizer, ontology: Ontology) -> None:
        self.tokenizer = tokenizer
        self.spelling = Spelling(ontology, tokenizer.vocab_size)
        self.ids, self.form = TargetIds(ontology), CopyForm()
        self.reading = FrameAutomaton(ontology, self.spelling, mixed=True)
        self.writing = FrameAutomaton(ontology, self.spelling)

    def counts(self, rows: list[Example], label: str = "") -> dict[str, int]:
        """Rows by what went right and wrong; each row adds to several of the counts.

        Returns:
            ``copy_form_exact`` and ``automaton_exact``: read back as they were. ``parser_cannot_write``: the parser's
            automaton refuses. ``passing_over``: a leaf needs tokens that pass over an earlier place.
            ``outside_ontology``: the frame nests labels as training never did.
        """
        found = Counter(
            dict.fromkeys(
                ("copy_form_exact", "automaton_exact", "parser_cannot_write", "passing_over", "outside_ontology"), 0
            )
        )
        for begin in track(range(0, len(rows), CHUNK), f"reading back {label}"):
            chunk = rows[begin : begin + CHUNK]
            sources = self.tokenizer.batch([row.utterance for row in chunk])
            for row, source in zip(chunk, sources, strict=True):
                frame = row.frame.decoupled()
                linear = self.form.encode(frame, source)
                found["copy_form_exact"] += self.form.decode(linear, source) == frame
                try:
                    symbols = self.ids.encode(linear)
                except FrameError:
                    found["outside_ontology"] += 1
                    continue
                tokens = spelled(symbols, source, self.spelling)
                found["passing_over"] += self.spelling.pass_over in tokens
                if self._reads(self.writing, tokens, source, frame):
                    found["automaton_exact"] += 1
                elif self._reads(self.reading, tokens, source, frame):
                    found["automaton_exact"] += 1
                    found["parser_cannot_write"] += 1
                else:
                    found["outside_ontology"] += 1
        return dict(found)

    @staticmethod
    def _reads(automaton: FrameAutomaton, tokens: list[int], source: Source, frame: Frame) -> bool:
        cursor = automaton.start(source)
        try:
            for token in tokens:
                cursor = cursor.step(token)
        except KeyError:
            return False
        return cursor.done and cursor.frame() == frame


if __name__ == "__main__":
    main()
