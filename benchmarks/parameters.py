"""The parameters of bundles, counted in their graphs.

    python -m benchmarks.parameters --bundles models/conv-nar-topv2 models/span-pointer-topv2 models/raf-topv2

A parameter is a weight of a graph. Scales and zero points of quantization, integer constants and sinusoids are not
counted, nor what a bundle computes from weights ahead of time (scenario vectors and leaf states of RAF).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from math import prod
from pathlib import Path

import onnx

from frames.files import write_json

#: Types of ONNX that hold numbers which are not quantized.
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def main() -> None:
    """Counts, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundles", nargs="+", type=Path, required=True)
    options.add_argument("--out", type=Path, default=Path("results/parameters.json"))
    given = options.parse_args()
    table = {bundle.name: count(bundle) for bundle in given.bundles}
    for name, counts in table.items():
        print(name, counts)
    write_json(given.out, table)


def count(bundle: Path) -> dict[str, int]:
    """Parameters of one bundle: of each graph, of all graphs together, and of these the word embeddings.

    A language model's table embeds tokens in one graph and scores them in another; together it counts once.
    """
    counts: dict[str, int] = {}
    embeddings: dict[str, int] = {}
    shared = 0
    for path in sorted(bundle.glob("*.int8.onnx")):
        weights = dict(_weights(onnx.load(path)))
        counts[path.name.removesuffix(".int8.onnx")] = sum(weights.values())
        tables = {name: size for name, size in weights.items() if _is_embedding(name)}
        shared += sum(size for name, size in tables.items() if name in embeddings)
        embeddings |= tables
    return {**counts, "total": sum(counts.values()) - shared, "word_embeddings": sum(embeddings.values())}


def _weights(graph: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    for tensor in graph.graph.initializer:
        quantized = tensor.name.endswith(("_quantized", "_rows_int8", "_columns_int8"))
        helper = tensor.name.endswith(("_scale", "_scales", "_zero_point", "sinusoids"))
        if quantized or (tensor.data_type in FLOATS and tensor.dims and not helper):
            yield tensor.name, prod(tensor.dims)


def _is_embedding(name: str) -> bool:
    return name.endswith(
        ("word_embeddings.weight_quantized", "encoder.embedding.weight_quantized", "lm_head.weight_rows_int8")
    )


if __name__ == "__main__":
    main()
