"""int8 graphs whose result for a row does not depend on the rows beside it.

onnxruntime's dynamic quantization takes one activation scale from a whole tensor, so an utterance gets other activations,
and sometimes another frame, in a batch than alone. :func:`by_row` gives every row of a matrix product a scale of its own, as
vector-wise quantization does (Dettmers et al. 2022, arXiv 2208.07339, section 3.2). The weights stay what they are: signed,
for that is what processors have fast instructions for. Where those saturate, :class:`assistants.onnx_backend.OnnxGraphs` takes
others, so that every processor computes the same integers.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from assistants.bundle import PRECISIONS, changeable, rewritten
from frames.errors import BundleError
from frames.files import write_bytes
from frames.locks import locked
from parsers.aliases import known_options
from parsers.confidence import BACKGROUND
from parsers.nar import DecodingConfig
from parsers.raf.candidate import RAFDecodingConfig

#: Domain of onnxruntime's own operators.
CONTRIB = "com.microsoft"
#: Zero point of activations, the middle of uint8; that of weights is 0, but was this in an earlier version's graphs.
MIDDLE = 128
#: Largest magnitude of an activation in int8.
LARGEST = 127


def quantize_graph(content: bytes) -> bytes:
    """An fp32 graph in int8: weights of matrix products by output column, embeddings as a whole, activations by row."""
    model = onnx.ModelProto.FromString(content)
    # The exporter's shape annotations of intermediate values contradict the quantizer's own inference.
    del model.graph.value_info[:]
    # The quantizer advises preprocessing that the exporter has already done.
    with errors_alone(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(model, path, per_channel=True, weight_type=QuantType.QInt8)
        return by_row(path.read_bytes())


@contextmanager
def errors_alone(name: str | None = None) -> Iterator[None]:
    """Lets a logger, the root's without a name, tell nothing but errors while the block runs."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def by_row(content: bytes) -> bytes:
    """A dynamically quantized graph with an activation scale for each row in place of one for each tensor.

    Args:
        content: as ``quantize_dynamic`` writes it, with int8 weights by column. A graph without such products comes back
            as it is.

    Raises:
        BundleError: the graph quantizes activations in a way that ``quantize_dynamic`` does not.
    """
    model = onnx.ModelProto.FromString(content)
    graph = model.graph
    found = _Graph(graph)
    constants: dict[str, np.ndarray] = {
        "row_axis": np.array([-1], np.int64),
        "row_step": np.array(1 / LARGEST, np.float32),
        "row_zero_point": np.array(MIDDLE, np.uint8),
    }
    replaced: dict[str, list[NodeProto]] = {}  # by the first output of the node whose place they take
    removed: set[str] = set()  # outputs of nodes that go without replacement
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            replaced[node.output[0]] = list(_quantize_rows(node.input[0], node.output[0]))
        elif node.op_type == "MatMulInteger":
            product = found.product(node)
            replaced[product.result] = product.nodes
            removed |= product.removed
    if not replaced:
        return content
    nodes = [
        new for node in graph.node if node.output[0] not in removed for new in replaced.get(node.output[0], [node])
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    if all(opset.domain != CONTRIB for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return model.SerializeToString()


def _quantize_rows(x: str, quantized: str) -> Iterator[NodeProto]:
    """``x`` ``[..., K]`` in uint8, each row divided by its largest magnitude ``[..., 1]``.

    A row of zeros, divided by zero, becomes arbitrary integers; their product is multiplied by the magnitude, zero, again.
    """
    yield helper.make_node("Abs", [x], [f"{quantized}_abs"])
    yield helper.make_node("ReduceMax", [f"{quantized}_abs", "row_axis"], [_scale_of(quantized)], keepdims=1)
    yield helper.make_node("Div", [x, _scale_of(quantized)], [f"{quantized}_unit"])
    yield helper.make_node("QuantizeLinear", [f"{quantized}_unit", "row_step", "row_zero_point"], [quantized])


def _scale_of(quantized: str) -> str:
    """Name of the largest magnitudes of the rows of an activation, by the name of the quantized activation."""
    return f"{quantized}_row"


@dataclass(frozen=True)
class _Product:
    """A quantized matrix product: the nodes that it becomes, and those that go.

    Attributes:
        result: name of its output.
        nodes: in place of the node with that output.
        removed: outputs of its other nodes.
    """

    result: str
    nodes: list[NodeProto]
    removed: set[str]


class _Graph:
    """Producers, consumers and constants of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.producer = {output: node for node in graph.node for output in node.output}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def product(self, node: NodeProto) -> _Product:
        """The product of a ``MatMulInteger``: ``Cast(node) * (activation scale * weight scale)``."""
        try:
            activation, weight, _, zero = node.input
            (cast,) = self.consumers[node.output[0]]
            (scaled,) = self.consumers[cast.output[0]]
            scales = self.producer[next(name for name in scaled.input if name != cast.output[0])]
            activation_scale = self.producer[activation].output[1]
            weight_scale = next(name for name in scales.input if name != activation_scale)
            zeros = numpy_helper.to_array(self.constants[zero])
        except (KeyError, ValueError, StopIteration) as error:
            raise _unknown(node, repr(error)) from error
        if zeros.any():
            raise _unknown(node, "weights with a zero point")
        result = scaled.output[0]
        inputs = [activation, weight, "row_step", weight_scale, "row_zero_point"]
        nodes = [
            helper.make_node("MatMulIntegerToFloat", inputs, [f"{result}_unit"], domain=CONTRIB),
            helper.make_node("Mul", [f"{result}_unit", _scale_of(activation)], [result]),
        ]
        return _Product(result, nodes, {node.output[0], cast.output[0], scales.output[0]})


def _unknown(node: NodeProto, reason: object) -> BundleError:
    return BundleError(
        "E517",
        f"the product {node.name!r} is not as onnxruntime's dynamic quantization writes it ({reason}).",
        remedy="Export the fp32 graph again, and report the version of onnxruntime.",
    )


def signed(content: bytes) -> bytes:
    """A graph with the unsigned weights of an earlier version, with signed ones; any other comes back as it is."""
    model = onnx.ModelProto.FromString(content)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    earlier = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat" and len(node.input) == 6]
    if not earlier:
        return content
    for name in {node.input[1] for node in earlier}:
        values = numpy_helper.to_array(tensors[name]).astype(np.int16) - MIDDLE
        tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.int8), name))
    for node in earlier:
        del node.input[5]  # the zero point
    _drop_unused(model.graph)
    return model.SerializeToString()


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Removes constants that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def convert(path: Path | str) -> None:
    """Converts the int8 graphs of a bundle folder of an earlier version, whole or not at all.

    Metrics and probabilities go with graphs that were quantized by tensor; signed weights compute what unsigned ones did.

    Raises:
        BundleError: the bundle cannot be read, or its graphs are not as ``quantize_dynamic`` writes them.
        MachineError: the disk is full; the bundle is left as it was.
    """
    bundle = changeable(path)
    suffix = PRECISIONS["int8"]
    found = {name: bundle.read(name) for name in bundle.manifest["files"] if name.endswith(suffix)}
    graphs = {name: by_row(content) for name, content in found.items()}
    other = any(graphs[name] is not content for name, content in found.items())
    with locked(bundle.path), rewritten(bundle, {*graphs, *([BACKGROUND] if other else [])}) as (staging, manifest):
        for name, content in graphs.items():
            write_bytes(staging / name, signed(content))
        kind = RAFDecodingConfig if "scenarios" in manifest else DecodingConfig
        manifest["decoding"] = known_options(kind, manifest["decoding"])
        if other:
            manifest["metrics"] = {}
            manifest.pop("confidence", None)
