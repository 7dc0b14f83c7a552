"""Weights in int8 that are computed with in fp32, so that a token's scores do not depend on what is read beside it.

Quantization of activations rounds them as well. A language model that verifies drafts reads the same token once alone and
once among others; sums in another order differ in the last bit, and where that bit decides which way an activation is
rounded, the scores differ by far more. So only files are made smaller here: onnxruntime turns matrices into fp32 when it
loads them (with ``session.disable_quant_qdq``), and embeddings when they are looked up.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from assistants.rounding import rounded

#: Weights of fewer numbers than this stay as they are.
LEAST = 1024
#: Which input of an operator is the weight.
_WEIGHT = {"MatMul": 1, "Gather": 0}


def weight_only(content: bytes) -> bytes:
    """An ONNX model with its weights in int8: a scale for each output channel of a matrix, and for each embedding.

    Args:
        content: the model in fp32.
    """
    model = onnx.load_from_string(content)
    graph = model.graph
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and np.prod(tensor.dims) >= LEAST
    }
    nodes: list[NodeProto] = []
    made: dict[str, TensorProto] = {}
    for node in graph.node:
        name = node.input[_WEIGHT[node.op_type]] if node.op_type in _WEIGHT else ""
        if name not in weights:
            nodes.append(node)
            continue
        gathered = node.op_type == "Gather"
        stem = f"{name}_{'rows' if gathered else 'columns'}"
        if f"{stem}_int8" not in made:
            values, scales = rounded(weights[name], axis=1 if gathered else 0)
            made[f"{stem}_int8"] = numpy_helper.from_array(values, f"{stem}_int8")
            made[f"{stem}_scales"] = numpy_helper.from_array(scales if gathered else scales[0], f"{stem}_scales")
            if not gathered:
                nodes.append(
                    helper.make_node("DequantizeLinear", [f"{stem}_int8", f"{stem}_scales"], [f"{stem}_fp32"], axis=1)
                )
        nodes += _looked_up(node, stem) if gathered else _multiplied(node, stem)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *made.values()])
    return model.SerializeToString()


def _looked_up(node: NodeProto, stem: str) -> Iterator[NodeProto]:
    """Rows of a table, in fp32."""
    ids, out = node.input[1], node.output[0]
    yield helper.make_node("Gather", [f"{stem}_int8", ids], [f"{out}_int8"])
    yield helper.make_node("Cast", [f"{out}_int8"], [f"{out}_uncast"], to=TensorProto.FLOAT)
    yield helper.make_node("Gather", [f"{stem}_scales", ids], [f"{out}_scales"])
    yield helper.make_node("Mul", [f"{out}_uncast", f"{out}_scales"], [out])


def _multiplied(node: NodeProto, stem: str) -> Iterator[NodeProto]:
    """A product with a matrix that is fp32 by then."""
    yield helper.make_node("MatMul", [node.input[0], f"{stem}_fp32"], node.output, node.name)
