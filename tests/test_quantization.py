"""int8 graphs give a row the same numbers whatever rows are beside it, and lose little by being int8."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from assistants import onnx_backend, quantization, runtime
from assistants.export import export
from assistants.four_bits import BLOCK_SIZES, in_four_bits
from assistants.quantization import MIDDLE, by_row, convert, quantize_graph, signed
from assistants.saturation import PRODUCT
from data.topv2.reader import read_split
from frames.errors import BundleError
from frames.folders import write_manifest

#: Utterances of many lengths, so that most of a batch is padding for some of them.
UTTERANCES = [
    "stop",
    "wake me at 6",
    "how long is the drive to the airport with traffic this morning if I leave before the kids are up",
    "play some jazz",
    "remind me to call mum tomorrow at 8 : 30 and to bring the blue folder to the office on Monday",
    "weather",
    "will it rain on Sunday in Boston or should I plan the picnic",
    "delete all my alarms for next week",
    "text Anna that I am late and ask her whether Peter has the keys",
    "add ten minutes to the pasta timer",
]


def _session(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def products() -> bytes:
    """``x`` times two matrices, one of them behind a relu, as fp32."""
    generator = np.random.default_rng(0)
    first, second = (generator.normal(size=shape).astype(np.float32) for shape in ((48, 32), (32, 16)))
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "second"], ["y"], name="two"),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "source", 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "source", 16])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def test_row_does_not_depend_on_rows_beside_it(products: bytes, monkeypatch: pytest.MonkeyPatch):
    x = np.random.default_rng(1).normal(size=(3, 4, 48)).astype(np.float32)
    x[1] *= 100  # loud neighbours
    x[2, 3] = 0  # padding
    ours = _session(quantize_graph(products))
    monkeypatch.setattr(quantization, "by_row", lambda content: content)
    dynamic = _session(quantize_graph(products))
    (together,), (exact,) = ours.run(None, {"x": x}), _session(products).run(None, {"x": x})
    for row in range(3):
        alone = ours.run(None, {"x": x[row : row + 1]})[0][0]
        np.testing.assert_array_equal(alone, together[row])
    difference = np.linalg.norm(together - exact, axis=-1) / np.maximum(np.linalg.norm(exact, axis=-1), 1e-6)
    assert difference.max() < 0.03
    assert (together[2, 3] == 0).all()
    # What the graphs of earlier versions did: the loud row drowns the others.
    assert np.abs(dynamic.run(None, {"x": x})[0][0] - exact[0]).max() > 5 * np.abs(together[0] - exact[0]).max()


def test_graphs_of_another_shape(products: bytes, monkeypatch: pytest.MonkeyPatch):
    assert by_row(products) == products  # nothing is quantized
    monkeypatch.setattr(quantization, "by_row", lambda content: content)
    model = onnx.ModelProto.FromString(quantize_graph(products))
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    cast.op_type = "Identity"
    extra = helper.make_node("Identity", [cast.input[0]], ["elsewhere"])
    model.graph.node.append(extra)
    with pytest.raises(BundleError, match="E517"):
        by_row(model.SerializeToString())


def _unsigned(content: bytes) -> bytes:
    """A graph as the version before signed weights wrote it."""
    model = onnx.ModelProto.FromString(content)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulIntegerToFloat":
            weight, columns = node.input[1], tensors[node.input[3]].dims[0]
            values = (numpy_helper.to_array(tensors[weight]).astype(np.int16) + MIDDLE).astype(np.uint8)
            tensors[weight].CopyFrom(numpy_helper.from_array(values, weight))
            zeros = numpy_helper.from_array(np.full(columns, MIDDLE, np.uint8), f"{weight}_zeros")
            model.graph.initializer.append(zeros)
            node.input.append(zeros.name)
    return model.SerializeToString()


def test_signed_weights_compute_what_unsigned_ones_did(products: bytes):
    x = np.random.default_rng(2).normal(size=(3, 4, 48)).astype(np.float32)
    ours = quantize_graph(products)
    earlier = _unsigned(ours)
    assert signed(ours) is ours
    assert b"_zeros" in earlier and b"_zeros" not in signed(earlier)
    wanted = _session(ours).run(None, {"x": x})[0]
    for graph in (earlier, signed(earlier)):
        np.testing.assert_array_equal(_session(graph).run(None, {"x": x})[0], wanted)


def test_processors_that_saturate_compute_the_same(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    fast = runtime.load(bundle).parse(UTTERANCES)
    monkeypatch.setattr(onnx_backend, "saturates", lambda: True)
    exact = runtime.load(bundle).parse(UTTERANCES)
    assert [[(h.frame, h.score) for h in row] for row in fast] == [[(h.frame, h.score) for h in row] for row in exact]


def test_probe_is_the_product_that_its_comment_tells():
    kinds = {"a": TensorProto.UINT8, "b": TensorProto.INT8, "y": TensorProto.INT32}
    given = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "p", given[:2], given[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=8)
    assert onnx.ModelProto.FromString(PRODUCT) == model
    x, weights = np.array([[255, 255]], np.uint8), np.array([[1], [-2]], np.int8)
    assert _session(PRODUCT).run(None, {"a": x, "b": weights})[0].tolist() == [[-255]]


@pytest.mark.parametrize("name", ["conv-nar-topv2", "span-pointer-topv2", "raf-topv2"])
def test_included_bundles_answer_alone_as_in_a_batch(name: str, repository: Path):
    _check(runtime.load(repository / "models" / name))


def test_exported_bundles_answer_alone_as_in_a_batch(bundle: Path, raf_bundle: Path):
    for path in (bundle, raf_bundle):
        parser = runtime.load(path)
        assert parser.precision == "int8"
        _check(parser)


def test_four_bits_are_small_and_lose_little():
    weights = np.random.default_rng(3).normal(size=(256, 256)).astype(np.float32)
    x = np.random.default_rng(4).normal(size=(5, 256)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 256])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    sizes, losses = [], []
    for block_size in BLOCK_SIZES:
        small = in_four_bits(model, block_size)
        (found,) = _session(small).run(None, {"x": x})
        sizes.append(len(small) / len(model))
        losses.append(np.linalg.norm(found - x @ weights) / np.linalg.norm(x @ weights))
        for row in range(5):
            np.testing.assert_allclose(_session(small).run(None, {"x": x[row : row + 1]})[0][0], found[row], atol=1e-4)
    assert sizes == sorted(sizes, reverse=True) and sizes[1] < 0.2, "32 weights of 4 bits and a scale are 5.1 bits each"
    assert losses[0] < losses[-1] < 0.2 and losses[1] < 0.12


def test_linear_maps_of_matrices_are_in_four_bits_too():
    weights = np.random.default_rng(3).normal(size=(64, 256)).astype(np.float32)
    bias = np.random.default_rng(5).normal(size=64).astype(np.float32)
    x = np.random.default_rng(4).normal(size=(5, 256)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="linear", transB=1)],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 64])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    small = in_four_bits(model, 32)
    assert len(small) < 0.2 * len(model)
    wanted = x @ weights.T + bias
    (found,) = _session(small).run(None, {"x": x})
    assert np.linalg.norm(found - wanted) < 0.12 * np.linalg.norm(wanted)


def test_an_export_does_not_have_everything_logged():
    code = "import logging, assistants.four_bits; print(logging.root.handlers, logging.root.level)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", str(logging.WARNING)]


def test_bundles_in_four_bits_answer_alone_as_in_a_batch(
    bundle: Path, raf_bundle: Path, checkpoint: Path, raf_checkpoint: Path, corpus: Path, tmp_path: Path
):
    utterances = [row.utterance for row in read_split(corpus, "eval")[:60]]
    for name, trained, exact, largest in (
        ("nar", checkpoint, bundle, None),
        ("raf", raf_checkpoint, raf_bundle, 20_000),
    ):
        small = export(trained, tmp_path / name, ["int4"], largest_file=largest)
        stored = {path.name.removeprefix("decoder.") for path in small.glob("decoder.*")}
        assert stored >= ({"int4.onnx.gz"} if largest is None else {"int4.onnx.gz.part1", "int4.onnx.gz.part2"})
        parser = runtime.load(small)
        assert parser.precision == "int4"
        # fp32 operators sum in an order that depends on the batch; a last bit so lost can have an activation rounded to
        # another of 255 values. A row whose scale came from its neighbours would be further off.
        _check(parser, score=0.1, alike=len(UTTERANCES) - 1)
        wanted, found = runtime.load(exact, "fp32").parse(utterances), parser.parse(utterances)
        # 4 bits hurt so small a model, and how much depends on the machine that trained it: half of the frames stay, more or
        # less. Chance would have next to none alike.
        assert sum(a[0].frame == b[0].frame for a, b in zip(wanted, found, strict=True)) > 0.3 * len(utterances)


def _check(parser: runtime.BundleParser, score: float = 1e-5, alike: int = len(UTTERANCES)) -> None:
    """At least ``alike`` utterances have the same frame alone and together, and all of them the same ``score``, within it."""
    together = [best for best, *_ in parser.parse(UTTERANCES)]
    alone = [parser.parse([utterance])[0][0] for utterance in UTTERANCES]
    assert sum(one.frame == other.frame for one, other in zip(alone, together, strict=True)) >= alike
    # fp32 operators at the very end of a graph round by where in memory a row lies.
    assert [one.score for one in alone] == pytest.approx([other.score for other in together], abs=score)


def test_earlier_bundle_loads_and_is_converted(
    bundle: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old = tmp_path / "old"
    with monkeypatch.context() as patch:
        patch.setattr(quantization, "by_row", lambda content: content)
        export(checkpoint, old, ["int8"])
    manifest = json.loads((old / "manifest.json").read_text())
    earlier = {"num_rescored": "rescored"}
    manifest["decoding"] = {earlier.get(name, name): value for name, value in manifest["decoding"].items()}
    manifest["decoding"]["passes"] = 1
    (old / "manifest.json").write_text(json.dumps(manifest))
    shutil.copytree(old, tmp_path / "converted")
    assert runtime.load(old).parse(UTTERANCES)
    convert(tmp_path / "converted")
    converted = json.loads((tmp_path / "converted" / "manifest.json").read_text())
    assert converted["decoding"] == json.loads((bundle / "manifest.json").read_text())["decoding"]
    fresh, found = runtime.load(bundle).parse(UTTERANCES), runtime.load(tmp_path / "converted").parse(UTTERANCES)
    assert [[(h.frame, h.score) for h in row] for row in fresh] == [[(h.frame, h.score) for h in row] for row in found]


def test_bundle_with_unsigned_weights_is_converted_and_keeps_its_figures(bundle: Path, tmp_path: Path):
    old = Path(shutil.copytree(bundle, tmp_path / "old"))
    for path in old.glob("*.int8.onnx"):
        path.write_bytes(_unsigned(path.read_bytes()))
    (old / "manifest.json").unlink()
    manifest = json.loads((bundle / "manifest.json").read_text())
    write_manifest(old, {**manifest, "metrics": {"exact_match": 12.5}})
    before = runtime.load(old).parse(UTTERANCES)
    convert(old)
    assert json.loads((old / "manifest.json").read_text()) == {**manifest, "metrics": {"exact_match": 12.5}}
    after = runtime.load(old).parse(UTTERANCES)
    assert [[(h.frame, h.score) for h in row] for row in before] == [[(h.frame, h.score) for h in row] for row in after]
