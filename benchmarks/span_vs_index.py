"""What two endpoints a leaf save over one pointer a piece: latency and memory of decoding, and exact match beside it.

    python -m benchmarks.span_vs_index --span runs/conv_nar/best.ckpt --index runs/conv_nar_index/best.ckpt --out span_vs_index.json

Both checkpoints must share one encoder. Shrivastava et al. 2021 (arXiv 2104.07275, abstract) report 70% less latency
and 83% less memory at beam 5 than earlier non-autoregressive parsers. Decoding is measured as there: all lengths of the
beam are scored in one call of the decoder, on one thread. ``parse`` beside it is what users call, raw text to frame,
where lengths that cannot win are never scored. The two forms take turns on every utterance.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch.profiler import ProfilerActivity, profile

from data.topv2.reader import data_root, read_split
from frames.files import write_json
from lightning_modules.checkpoints import load_module
from lightning_modules.evaluation import environment
from parsers.groups import pad
from parsers.nar import MASKED, Encoded, NonAutoregressiveParser


class Beam:
    """The halves of one parser's work on some utterances: encode once, then score all lengths of the beam.

    Args:
        parser: over torch.
        texts: utterances that are treated together.
        beam: lengths.
    """

    def __init__(self, parser: NonAutoregressiveParser, texts: list[str], beam: int) -> None:
        self.backend = parser.backend
        sources = parser.tokenizer.batch(texts)
        pieces, mask = pad(sources, parser.tokenizer.pad_id)
        self.encoded = Encoded(sources, pieces, mask, *self.backend.encode(pieces, mask))
        best = np.argsort(-self.encoded.priors[:, 1:], axis=1)[:, :beam] + 1
        self.rows, self.lengths = np.repeat(np.arange(len(texts)), beam), best.reshape(-1)

    def decode(self) -> None:
        """One call of the decoder."""
        tokens = np.full((len(self.lengths), int(self.lengths.max())), MASKED, dtype=np.int64)
        self.backend.decode(self.encoded, self.rows, tokens, self.lengths)


def main() -> None:
    """Measures, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--span", type=Path, required=True)
    options.add_argument("--index", type=Path, required=True)
    options.add_argument("--data-root")
    options.add_argument("--split", default="eval")
    options.add_argument("--utterances", type=int, default=500)
    options.add_argument("--batch", type=int, default=128, help="utterances that memory is measured on")
    options.add_argument("--beam", type=int, default=5)
    options.add_argument("--out", type=Path, required=True, help="record to write")
    given = options.parse_args()
    torch.set_num_threads(1)
    examples = random.Random(0).sample(read_split(data_root(given.data_root), given.split), given.utterances)
    texts = [example.utterance for example in examples]
    parsers = {form: load_module(getattr(given, form))[0].parser() for form in ("span", "index")}
    seen: dict[str, dict[str, list[float]]] = {form: {"decode": [], "parse": [], "longest": []} for form in parsers}
    for text in track(texts, description="latency"):
        for form, parser in parsers.items():
            one = Beam(parser, [text], given.beam)
            seen[form]["longest"].append(float(one.lengths.max()))
            seen[form]["decode"].append(_milliseconds(one.decode))
            seen[form]["parse"].append(_milliseconds(partial(parser.parse, [text])))
    figures: dict[str, Any] = {}
    for form, parser in parsers.items():
        many = Beam(parser, texts[: given.batch], given.beam)
        parsed = [found[0] for found in parser.parse(texts)]
        exact = sum(p.frame == e.frame.decoupled() for p, e in zip(parsed, examples, strict=True))
        figures[form] = {
            "checkpoint": str(getattr(given, form)),
            "mean_frame_tokens": round(float(np.mean([len(p.trace["tokens"]) for p in parsed])), 2),
            "mean_longest_of_beam": round(float(np.mean(seen[form]["longest"])), 2),
            "exact_match_of_these": round(100 * exact / len(texts), 2),
            "decode_p50_ms": round(float(np.percentile(seen[form]["decode"], 50)), 3),
            "decode_p99_ms": round(float(np.percentile(seen[form]["decode"], 99)), 3),
            "parse_p50_ms": round(float(np.percentile(seen[form]["parse"], 50)), 3),
            "decode_peak_mb": round(peak_bytes(many.decode) / 1e6, 2),
        }
    saved = {
        name: round(100 * (1 - figures["span"][name] / figures["index"][name]), 1)
        for name in ("mean_frame_tokens", "decode_p50_ms", "decode_p99_ms", "parse_p50_ms", "decode_peak_mb")
    }
    result = {
        "beam": given.beam,
        "utterances": len(texts),
        "batch_of_memory": given.batch,
        **figures,
        "saved_by_span_percent": saved,
        "paper_percent": {"latency": 70, "memory": 83},
    }
    write_json(given.out, {**result, "environment": environment()})
    print(result)


def _milliseconds(call: Callable[[], Any]) -> float:
    clock = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - clock)


def peak_bytes(call: Callable[[], Any]) -> int:
    """Most bytes of tensors that were alive at once while ``call`` ran, beyond those alive before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    # The public list of events folds what an operator allocated into it and loses the order; this one keeps it.
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events)
    alive = np.cumsum([change for _, change in changes])
    return int(alive.max(initial=0))


if __name__ == "__main__":
    main()
