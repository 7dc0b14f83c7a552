"""One utterance, one thread, raw text in to Frame out, and batches on several threads; beside an autoregressive seq2seq of BART-base's size.

    python -m benchmarks.latency --bundle models/conv-nar-topv2 --data-root $TOPV2_DIR --out latency.json

The seq2seq is transformers' BART with random weights, greedy with a KV cache, and emits as many tokens for each
utterance as the bundle's frame has; its tokenizer is left out, in its favour. Both are measured in turn in one
run, so that the ratio does not depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from transformers import BartConfig, BartForConditionalGeneration

from assistants import runtime
from assistants.export import bundle_size
from data.topv2.reader import data_root, read_split
from frames.files import write_json
from lightning_modules.evaluation import environment


def main() -> None:
    """Measures, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundle", type=Path, default=Path("models/conv-nar-topv2"))
    options.add_argument("--data-root")
    options.add_argument("--split", default="eval")
    options.add_argument("--utterances", type=int, default=2000)
    options.add_argument("--seq2seq", type=int, default=40, help="utterances for the seq2seq, which is slow")
    options.add_argument("--batch", type=int, default=256, help="utterances of a batch")
    options.add_argument("--batch-threads", type=int, default=2, help="threads of a batch")
    options.add_argument("--out", type=Path, required=True, help="record to write")
    given = options.parse_args()
    torch.set_num_threads(1)
    parser = runtime.load(given.bundle, threads=1)
    examples = read_split(data_root(given.data_root), given.split)
    texts = [example.utterance for example in random.Random(0).sample(examples, min(given.utterances, len(examples)))]
    for text in texts[:50]:
        parser.parse([text])
    spent, lengths = [], []
    slow = _bart()
    every = max(1, len(texts) // given.seq2seq)
    slow_spent = []
    for i, text in enumerate(texts):
        clock = time.perf_counter()
        hypothesis = parser.parse([text])[0][0]
        spent.append(1000 * (time.perf_counter() - clock))
        lengths.append(len(hypothesis.trace["tokens"]))
        if i % every == 0:
            slow_spent.append(_generate(slow, len(hypothesis.trace["pieces"]), lengths[-1]))
    batched = runtime.load(given.bundle, threads=given.batch_threads)
    batched.parse(texts[: given.batch])
    clock = time.perf_counter()
    for begin in range(0, len(texts), given.batch):
        batched.parse(texts[begin : begin + given.batch])
    result = {
        "bundle": given.bundle.name,
        "precision": parser.precision,
        "bundle_mb": round(bundle_size(given.bundle) / 1e6, 2),
        "utterances": len(texts),
        "p50_ms": round(float(np.percentile(spent, 50)), 3),
        "p99_ms": round(float(np.percentile(spent, 99)), 3),
        "mean_ms": round(float(np.mean(spent)), 3),
        "batch": {
            "utterances": given.batch,
            "threads": given.batch_threads,
            "utterances_per_second": round(len(texts) / (time.perf_counter() - clock)),
        },
        "mean_frame_tokens": round(float(np.mean(lengths)), 2),
        "seq2seq_p50_ms": round(float(np.percentile(slow_spent, 50)), 2),
        "times_faster": round(float(np.percentile(slow_spent, 50) / np.percentile(spent, 50)), 1),
        "environment": environment(),
    }
    write_json(given.out, result)
    for name, value in result.items():
        if name != "environment":
            print(f"{name:20} {value}")


def _bart() -> BartForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"encoder_layers": 6, "decoder_layers": 6, "d_model": 768, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}
    return BartForConditionalGeneration(
        BartConfig(encoder_attention_heads=12, decoder_attention_heads=12, **sizes)
    ).eval()


@torch.inference_mode()
def _generate(model: BartForConditionalGeneration, pieces: int, tokens: int) -> float:
    """Milliseconds of one greedy generation of exactly ``tokens`` tokens."""
    source = torch.randint(10, 50_000, (1, pieces + 2))
    clock = time.perf_counter()
    model.generate(source, num_beams=1, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, use_cache=True)
    return 1000 * (time.perf_counter() - clock)


if __name__ == "__main__":
    main()
