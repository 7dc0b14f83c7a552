"""Time, calls and memory of every way to decode with one language model, on the same utterances in one run.

``python -m benchmarks.layerskip --checkpoint runs/layerskip_smollm2/best.ckpt --tiny models/layerskip-topv2``

A model is a checkpoint or a LayerSkip bundle, whose weights are put back into torch.

The ways take turns utterance by utterance, so that a busy machine slows all of them alike. Times are processor time of
this process; on an idle machine and one thread that is the time that passes. transformers' ways write without the
constraint and without tokenizing, exactly as many tokens as our frame has, all of which is in their favour.

``differing_outputs`` compares the frames of decoding with everything on and of full-depth greedy decoding under the same
constraint, on every row of the split, with the tiny model.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from benchmarks.layerskip_models import language_model
from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import sha256, write_json
from frames.folders import MANIFEST
from lightning_modules.evaluation import environment, spread
from parsers.layerskip.decoding import Counts, LayerSkipDecodingConfig
from parsers.layerskip.parser import LayerSkipParser

#: Full-depth greedy decoding, token by token, with a key-value cache.
GREEDY = LayerSkipDecodingConfig(exit_layer=0, skip_forced=False, score_candidates=False, copies=0)


def ways(exit_layer: int, drafts: int, copies: int) -> dict[str, LayerSkipDecodingConfig]:
    """Our ways to decode, by name."""
    paper = replace(GREEDY, exit_layer=exit_layer, drafts=drafts)
    return {
        "greedy": GREEDY,
        "paper": paper,
        "paper + skip_forced": replace(paper, skip_forced=True),
        "paper + score_candidates": replace(paper, score_candidates=True),
        "paper + copies": replace(paper, copies=copies),
        "paper + adaptive": replace(paper, adaptive=True),
        "all": replace(paper, skip_forced=True, score_candidates=True, copies=copies, adaptive=True),
        "all, full depth": replace(GREEDY, skip_forced=True, score_candidates=True, copies=copies),
    }


@dataclass
class Measured:
    """What one way took.

    Attributes:
        seconds: of processor time.
        wall_seconds: that passed.
        tokens: written, without those that transformers writes after a shorter frame of a batch ended.
        utterances: parsed.
        peak: most bytes of main memory.
        counts: of our decoder.
    """

    seconds: float = 0.0
    wall_seconds: float = 0.0
    tokens: int = 0
    utterances: int = 0
    peak: int = 0
    counts: Counts | None = None

    def figures(self) -> dict[str, Any]:
        """As the record has them."""
        found: dict[str, Any] = {
            "ms_per_utterance": round(1000 * self.seconds / self.utterances, 2),
            "ms_per_token": round(1000 * self.seconds / self.tokens, 2),
            "wall_ms_per_utterance": round(1000 * self.wall_seconds / self.utterances, 2),
            "peak_memory_mb": round(self.peak / 1e6, 1) if self.peak else None,
        }
        if self.counts is not None:
            counts = self.counts
            found |= {
                **asdict(counts),
                "tokens_per_call": round(counts.tokens / max(1, counts.calls), 3),
                "acceptance": round(100 * counts.accepted / counts.drafted, 2) if counts.drafted else None,
            }
        return found


def main() -> None:
    """Measures, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--checkpoint", type=Path, help="the speeds at the top of the record")
    options.add_argument("--tiny", type=Path, help="a second model, for its own table")
    options.add_argument("--compare", type=Path, help="the model of differing_outputs")
    options.add_argument("--update", action="store_true", help="keep what the record has of models not named now")
    options.add_argument("--utterances", type=int, default=32, help="of --checkpoint (default: %(default)s)")
    options.add_argument("--tiny-utterances", type=int, default=100, help="of --tiny (default: %(default)s)")
    options.add_argument("--rows", type=int, help="rows to compare outputs on (default: all of the split)")
    options.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="utterances decoded together")
    options.add_argument("--exit-layer", type=int, help="default: the checkpoint's")
    options.add_argument("--drafts", type=int, help="default: the checkpoint's")
    options.add_argument("--copies", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--data-root")
    options.add_argument("--split", default="eval")
    options.add_argument("--out", type=Path, default=Path("results/layerskip/benchmark.json"))
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    root = data_root(given.data_root)
    examples = read_split(root, given.split)
    old = json.loads(given.out.read_text()) if given.update and given.out.exists() else {}
    record: dict[str, Any] = {"models": {}, **old}
    for path, count in ((given.checkpoint, given.utterances), (given.tiny, given.tiny_utterances)):
        if path is not None:
            texts = [example.utterance for example in spread(examples, count)[:count]]
            measured = measure(path, texts, given)
            record["models"][short_name(path)] = {**measured, "environment": environment()}
            if path == given.checkpoint:
                record |= {key: measured["batches"]["1"][key] for key in SPEEDS}
    if given.compare is not None:
        record |= differences(given.compare, [example.utterance for example in spread(examples, given.rows)], given)
    record |= {
        "clock": f"processor time, {given.threads} thread(s); wall times depend on whatever else the machine did",
        "evaluated_on": corpus_checksum(root, given.split),
        "environment": environment(),
    }
    write_json(given.out, record)
    print(given.out, {key: record.get(key) for key in (*SPEEDS, "differing_outputs", "utterances")})


def short_name(path: Path) -> str:
    """What a checkpoint or bundle is called in records."""
    return path.parent.name if path.stem == "best" else path.stem


SPEEDS = (
    "speedup_paper_way",
    "speedup_all",
    "transformers_greedy_ratio",
    "transformers_assistant_early_exit_ratio",
    "transformers_prompt_lookup_ratio",
)


def measure(path: Path, texts: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """Every way on one model."""
    module, _ = language_model(path)
    exit_layer = given.exit_layer or module.decoding.exit_layer
    drafts = given.drafts or module.decoding.drafts
    asked = ways(exit_layer, drafts, given.copies)
    batches = {}
    for size in given.batches:
        found = timed(module, asked, texts, size, exit_layer, drafts)
        greedy = found["greedy"].seconds
        everything = found["all"].seconds
        batches[str(size)] = {
            "speedup_paper_way": round(greedy / found["paper"].seconds, 3),
            "speedup_all": round(greedy / everything, 3),
            **{
                f"transformers_{name}_ratio": round(found[f"transformers {name}"].seconds / everything, 3)
                if f"transformers {name}" in found
                else None
                for name in TRANSFORMERS
            },
            "ways": {name: {**way.figures(), "speedup": round(greedy / way.seconds, 3)} for name, way in found.items()},
        }
        for name, way in batches[str(size)]["ways"].items():
            print(f"{path.stem} batch {size} {name:40} {way['ms_per_utterance']:9.2f} ms, {way['speedup']:.2f} times")
    return {
        "sha256": sha256(path / MANIFEST if path.is_dir() else path),
        "parameters": sum(parameter.numel() for parameter in module.net.parameters()),
        "layers": module.net.depth,
        "exit_layer": exit_layer,
        "drafts": drafts,
        "utterances": len(texts),
        "threads": given.threads,
        "batches": batches,
    }


#: transformers' ways: arguments of ``generate`` by name.
TRANSFORMERS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "greedy": lambda exit_layer, drafts: {},
    "assistant_early_exit": lambda exit_layer, drafts: {"assistant_early_exit": exit_layer},
    "prompt_lookup": lambda exit_layer, drafts: {"prompt_lookup_num_tokens": drafts},
}


def timed(
    module: Any,
    asked: dict[str, LayerSkipDecodingConfig],
    texts: Sequence[str],
    size: int,
    exit_layer: int,
    drafts: int,
) -> dict[str, Measured]:
    """Runs all ways in turns over groups of ``size`` utterances."""
    parsers = {}
    for name, config in asked.items():
        module.decoding = replace(config, group=size)
        parsers[name] = module.parser()
    # transformers drafts for one sequence alone.
    theirs = {name: make(exit_layer, drafts) for name, make in TRANSFORMERS.items() if size == 1 or name == "greedy"}
    some: LayerSkipParser = parsers["greedy"]
    ordered = sorted(texts, key=lambda text: len(some.tokenizer(text)))
    groups = [ordered[begin : begin + size] for begin in range(0, len(ordered), size)]
    for parser in parsers.values():
        # The first pass allocates.
        parser.parse(groups[0])
        parser.decoder.counts = Counts()
    found = {name: Measured(counts=parser.decoder.counts) for name, parser in parsers.items()}
    found |= {f"transformers {name}": Measured() for name in theirs}
    with Progress() as bar:
        for group in bar.track(groups, description=f"batch {size}"):
            lengths: list[int] = []
            for name, parser in parsers.items():
                hypotheses = clocked(found[name], partial(parser.parse, group))
                lengths = [len(h[0].trace["tokens"]) for h in hypotheses]
                found[name].tokens += sum(lengths)
                found[name].utterances += len(group)
            prompts = [some.prompt(source) for source in some.tokenizer.batch(list(group))]
            for name, more in theirs.items():
                way = found[f"transformers {name}"]
                clocked(way, partial(generated, module.net.lm, prompts, max(lengths), more))
                way.tokens += sum(lengths)
                way.utterances += len(group)
    return found


def clocked(way: Measured, work: Callable[[], Any]) -> Any:
    """What the work gives; its time and peak memory are noted."""
    settled = settle()
    wall, clock = time.perf_counter(), time.process_time()
    result = work()
    way.seconds += time.process_time() - clock
    way.wall_seconds += time.perf_counter() - wall
    if settled:
        way.peak = max(way.peak, peak())
    return result


def settle() -> bool:
    """Gives unused memory back and sets the system's record of the peak to what is in use; False where it cannot."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak() -> int:
    """Most bytes of main memory since :func:`settle`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


@torch.inference_mode()
def generated(model: Any, prompts: Sequence[Sequence[int]], tokens: int, more: dict[str, Any]) -> Any:
    """What transformers writes after prompts, padded at their beginning, exactly ``tokens`` tokens."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, eos_token_id=None, pad_token_id=0, **more
    )


def differences(path: Path, texts: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """On how many utterances decoding with everything on and full-depth greedy decoding give other frames."""
    module, _ = language_model(path)
    asked = ways(given.exit_layer or module.decoding.exit_layer, given.drafts or module.decoding.drafts, given.copies)
    parsers = []
    for name in ("greedy", "all"):
        module.decoding = replace(asked[name], group=128)
        parsers.append(module.parser())
    examples: list[str] = []
    with Progress() as bar:
        task = bar.add_task("differing outputs", total=len(texts))
        for begin in range(0, len(texts), 1024):
            some = texts[begin : begin + 1024]
            greedy, everything = (parser.parse(some) for parser in parsers)
            for text, first, second in zip(some, greedy, everything, strict=True):
                if first[0].frame != second[0].frame:
                    examples.append(text)
            bar.update(task, advance=len(some))
    return {"differing_outputs": len(examples), "utterances": len(texts), "compared_model": short_name(path)}


if __name__ == "__main__":
    main()
