"""Fits the weights of a RAF checkpoint's modules, and its score outside of the bank, on eval rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.topv2.reader import Example
from frames.errors import UsageError
from lightning_modules.checkpoints import load_module
from lightning_modules.raf import RAFModule
from lightning_modules.saved import write_decoding
from parsers.raf.calibration import calibrate
from parsers.raf.candidate import Candidate, CandidateScores, RAFDecodingConfig, weigh
from parsers.raf.parser import RAFParser
from retrieval.scenario import Scenario

#: Utterances of a batch.
CHUNK = 256
#: Rows that the weights are fitted on, and rows that the figures are of.
FITTED, REPORTED = slice(0, None, 2), slice(1, None, 2)


def calibrate_checkpoint(
    path: Path | str,
    examples: Sequence[Example],
    decoding: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Fits the weights on every other row, reports on the rest, and writes the weights into the checkpoint.

    Args:
        path: checkpoint or packed weights of kind ``raf``; replaced whole or not at all.
        examples: rows of the split that selects.
        decoding: options of decoding that differ from those of the checkpoint; written into it as well.
        progress: called with the number of utterances done in each step.
        device: device of the model, as torch names it.

    Returns:
        The weights; and exact match (percent) before and after on the rows that the weights were not fitted on, of all rows
        and by whether the gold scenario is in the bank.

    Raises:
        UsageError: another kind of checkpoint, fewer than two rows, or an unknown option of decoding.
        BundleError: the checkpoint cannot be read.
        MachineError: the disk is full; the checkpoint is left as it was.
    """
    module, _ = load_module(path, decoding, device)
    if not isinstance(module, RAFModule):
        raise UsageError("E443", f"a {module.kind} parser has nothing to calibrate.", remedy="Give a raf checkpoint.")
    if len(examples) < 2:
        raise UsageError("E444", f"{len(examples)} row(s) are too few to fit on.", remedy="Give a larger split.")
    parser = module.parser()
    found: list[list[Candidate]] = []
    exact: list[list[bool]] = []
    for begin in range(0, len(examples), CHUNK):
        chunk = examples[begin : begin + CHUNK]
        sources = parser.tokenizer.batch([example.utterance for example in chunk])
        for example, source, candidates in zip(chunk, sources, parser.candidates(sources), strict=True):
            gold = example.frame.decoupled()
            found.append(candidates)
            exact.append([parser.form.decode(candidate.tokens, source) == gold for candidate in candidates])
        if progress is not None:
            progress(len(chunk))
    config, _ = calibrate(found[FITTED], exact[FITTED], module.decoding)
    held_out = list(zip(examples[REPORTED], found[REPORTED], exact[REPORTED], strict=True))
    write_decoding(path, asdict(config))
    return {
        "decoding": asdict(config),
        "rows": {"fitted": len(found[FITTED]), "reported": len(held_out)},
        "before": _figures(held_out, module.decoding, parser),
        "after": _figures(held_out, config, parser),
    }


Row = tuple[Example, list[Candidate], list[bool]]


def _figures(rows: Sequence[Row], config: RAFDecodingConfig, parser: RAFParser) -> dict[str, float]:
    parts: dict[str, list[bool]] = {"exact_match": [], "in_bank": [], "out_of_bank": [], "best_of_candidates": []}
    for example, candidates, exact in rows:
        chosen = int(weigh(CandidateScores.from_candidates([candidates]), config)[0].argmax())
        inside = Scenario.from_frame(example.frame) in parser.table.bank
        parts["exact_match"].append(exact[chosen])
        parts["in_bank" if inside else "out_of_bank"].append(exact[chosen])
        parts["best_of_candidates"].append(any(exact))
    return {name: round(100 * sum(values) / max(1, len(values)), 2) for name, values in parts.items()}
