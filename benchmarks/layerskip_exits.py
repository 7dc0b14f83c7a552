"""Exact match and acceptance by exit layer, with and without the LayerSkip recipe (Elhoushi et al. 2024, section 6.5).

``python -m benchmarks.layerskip_exits --checkpoints recipe=runs/layerskip_tiny/best.ckpt none=runs/layerskip_tiny_plain/best.ckpt``

The record keeps checkpoints of other names that were measured before. For each checkpoint: exact match at full depth, exact match of every exit alone (early exit without verification), and the
share of the exit's drafts that the whole model accepts.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.layerskip_models import language_model
from data.topv2.reader import corpus_checksum, data_root, read_split
from frames.files import write_bytes, write_json
from frames.plots import canvas, png
from lightning_modules.evaluation import environment, evaluate, spread
from parsers.layerskip.decoding import LayerSkipDecodingConfig


def main() -> None:
    """Measures and writes the record and its plot."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument(
        "--checkpoints", type=named, nargs="+", required=True, metavar="NAME=PATH",
        help="checkpoints or bundles, and what they are called; names that begin with none were trained without the recipe",
    )  # fmt: skip
    asked.add_argument("--rows", type=int, default=2000, help="eval rows, evenly spread (default: %(default)s)")
    asked.add_argument("--domains", nargs="+", help="of these rows (default: all)")
    asked.add_argument("--drafts", type=int, default=5, help="drafts before they are verified (default: %(default)s)")
    asked.add_argument("--device", default="cpu", help="where the parsers work (default: %(default)s)")
    asked.add_argument("--data-root", help="corpus folder (default: the variable TOPV2_DIR)")
    asked.add_argument("--out", type=Path, default=Path("results/layerskip/exits.json"))
    options = asked.parse_args()
    root = data_root(options.data_root)
    examples = spread(read_split(root, "eval", options.domains), options.rows)
    names = {name for name, _ in options.checkpoints}
    before = json.loads(options.out.read_text(encoding="utf-8"))["parsers"] if options.out.exists() else []
    measured = [entry for entry in before if entry["name"] not in names]
    for name, path in options.checkpoints:
        found = measure(path, examples, options.drafts, options.device)
        measured.append(
            {
                "recipe": not name.startswith("none"),
                "name": name,
                **found,
                "drafts": options.drafts,
                "domains": options.domains,
                "utterances": len(examples),
                "evaluated_on": corpus_checksum(root, "eval", options.domains),
                "environment": environment(),
            }
        )
    write_json(options.out, {"parsers": measured})
    write_bytes(options.out.with_suffix(".png"), plotted(measured))
    print(options.out)


def named(text: str) -> tuple[str, Path]:
    """``NAME=PATH`` in its parts; a path alone is called as its folder."""
    name, equals, path = text.rpartition("=")
    return (name, Path(path)) if equals else (Path(path).parent.name, Path(path))


def measure(path: Path, examples: list[Any], drafts: int, device: str) -> dict[str, Any]:
    """Exact match and acceptance of one checkpoint, by exit layer."""
    module, metadata = language_model(path, device)
    depth = module.net.depth
    base = LayerSkipDecodingConfig(group=512)

    def score(config: LayerSkipDecodingConfig) -> tuple[float, Any]:
        module.decoding = config
        parser = module.parser()
        return evaluate(parser, examples)["exact_match"], parser.decoder.counts

    full, _ = score(base)
    exits = []
    step = max(1, depth // 10)
    for layer in track(range(step, depth, step), f"exits of {path}"):
        alone, _ = score(replace(base, exit_layer=layer, verify=False, copies=0))
        verified, counts = score(replace(base, exit_layer=layer, drafts=drafts, copies=0))
        exits.append(
            {
                "exit_layer": layer,
                "exact_match": alone,
                "verified_exact_match": verified,
                "acceptance": round(100 * counts.accepted / max(1, counts.drafted), 2),
            }
        )
    optimization = {k: v for k, v in metadata["optimization"].items() if k not in ("lr", "weight_decay", "encoder_lr")}
    return {
        "layers": depth,
        "exact_match": full,
        "optimization": optimization,
        "exits": exits,
    }


def plotted(measured: list[dict[str, Any]]) -> bytes:
    """Exact match by exit layer, a line a checkpoint."""
    figure, axes = canvas(6, 4)
    for entry in measured:
        layers = [e["exit_layer"] for e in entry["exits"]] + [entry["layers"]]
        scores = [e["exact_match"] for e in entry["exits"]] + [entry["exact_match"]]
        shares = [layer / entry["layers"] for layer in layers]
        axes.plot(shares, scores, marker="o", label=entry["name"] + ("" if entry["recipe"] else " (no recipe)"))
    axes.set_xlabel("share of the layers that answer")
    axes.set_ylabel("exact match on eval rows, %")
    axes.legend()
    return png(figure)


if __name__ == "__main__":
    main()
