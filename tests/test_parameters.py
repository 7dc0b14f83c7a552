"""Parameters of bundles: the same number in whatever precision, and however a bundle is stored."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from assistants.bundle import FORMAT, PRECISIONS, write_in_parts, write_packed
from assistants.four_bits import in_four_bits
from assistants.quantization import quantize_graph
from benchmarks.parameters import count
from frames.errors import BundleError
from frames.folders import write_manifest


def graph() -> bytes:
    """Embeddings ``[50, 64]`` times a matrix ``[64, 24]``, which fills no whole number of blocks of 128, and a bias."""
    generator = np.random.default_rng(0)
    weights = {
        "encoder.word_embeddings.weight": generator.normal(size=(50, 64)),
        "matrix": generator.normal(size=(64, 24)),
        "bias": generator.normal(size=24),
    }
    nodes = [
        helper.make_node("Gather", ["encoder.word_embeddings.weight", "ids"], ["embedded"]),
        helper.make_node("Relu", ["embedded"], ["x"]),
        helper.make_node("MatMul", ["x", "matrix"], ["product"], "product"),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 24])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_and_storage_change_no_number(precision: str, tmp_path: Path):
    folder = tmp_path / "some"
    folder.mkdir()
    content = {"fp32": bytes, "int8": quantize_graph, "int4": lambda fp32: in_four_bits(fp32, 128)}[precision](graph())
    file = folder / f"encoder{PRECISIONS[precision]}"
    write = write_packed if precision == "int4" else write_in_parts
    write(file, content, 2000)
    assert (folder / f"{file.name}{'.gz' if precision == 'int4' else ''}.part2").exists()
    write_manifest(folder, {"format": FORMAT})
    shutil.make_archive(str(folder), "zip", folder)
    sizes = {"encoder": 50 * 64 + 64 * 24 + 24, "total": 50 * 64 + 64 * 24 + 24, "word_embeddings": 50 * 64}
    assert count(folder) == count(tmp_path / "some.zip") == sizes


def test_what_has_no_graphs_is_refused(tmp_path: Path):
    write_manifest(tmp_path, {"format": FORMAT})
    with pytest.raises(BundleError, match="E581"):
        count(tmp_path)
