"""The parameters of bundles, counted in their graphs.

    python -m benchmarks.parameters --bundles models/conv-nar-topv2 models/span-pointer-topv2 models/raf-topv2

A parameter is a weight of a graph, in whatever precision it is kept. Scales and zero points of quantization, integer
constants and sinusoids are not counted, nor what a bundle computes from weights ahead of time (scenario vectors and leaf
states of RAF). Of several precisions in a bundle, that is counted which is used unless another is asked for.
"""

from __future__ import annotations

import argparse
from math import prod
from pathlib import Path

import onnx

from assistants.bundle import Bundle, bundle_name
from frames.files import write_json

#: Types of ONNX that hold numbers which are not quantized.
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
#: How names of quantized weights end.
QUANTIZED = ("_quantized", "_rows_int8", "_columns_int8", "_Q4")


def main() -> None:
    """Counts, prints and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundles", nargs="+", type=Path, required=True)
    options.add_argument("--out", type=Path, default=Path("results/parameters.json"))
    given = options.parse_args()
    table = {bundle_name(bundle): count(bundle) for bundle in given.bundles}
    for name, counts in table.items():
        print(name, counts)
    write_json(given.out, table)


def count(path: Path) -> dict[str, int]:
    """Parameters of one bundle: of each graph, of all graphs together, and of these the word embeddings.

    A language model's table embeds tokens in one graph and scores them in another; together it counts once.

    Args:
        path: folder or ``.zip``.

    Raises:
        BundleError: the bundle cannot be read, or has no graphs.
    """
    bundle = Bundle(path)
    counts: dict[str, int] = {}
    embeddings: dict[str, int] = {}
    shared = 0
    for name, file in bundle.graphs().items():
        weights = _weights(onnx.load_from_string(bundle.read(file)))
        counts[name] = sum(weights.values())
        tables = {tensor: size for tensor, size in weights.items() if _is_embedding(tensor)}
        shared += sum(size for tensor, size in tables.items() if tensor in embeddings)
        embeddings |= tables
    return {**counts, "total": sum(counts.values()) - shared, "word_embeddings": sum(embeddings.values())}


def _weights(model: onnx.ModelProto) -> dict[str, int]:
    """Numbers of weights by the names of their tensors, without what quantization put before or after them."""
    # Blocks of 4 bits hold two weights in a byte, and are filled up at their ends.
    packed: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            sizes = {attribute.name: attribute.i for attribute in node.attribute}
            packed[node.input[1]] = sizes["K"] * sizes["N"]
    found = {}
    for tensor in model.graph.initializer:
        helper = tensor.name.endswith(("_scale", "_scales", "_zero_point", "sinusoids"))
        if tensor.name.endswith(QUANTIZED) or (tensor.data_type in FLOATS and tensor.dims and not helper):
            name = next((tensor.name.removesuffix(end) for end in QUANTIZED if tensor.name.endswith(end)), tensor.name)
            found[name] = packed.get(tensor.name, prod(tensor.dims))
    return found


def _is_embedding(name: str) -> bool:
    return name.endswith(("word_embeddings.weight", "encoder.embedding.weight", "lm_head.weight"))


if __name__ == "__main__":
    main()
