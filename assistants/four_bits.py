"""Graphs whose weights are in 4 bits, for where a bundle's size counts most.

Each block of :data:`BLOCK` weights of a column has a scale and a zero point. onnxruntime reads such blocks as they are
(``MatMulNBits``, ``GatherBlockQuantized``), and rounds a row of activations to int8 in blocks as well, so that a row does not depend
on the rows beside it.
"""

from __future__ import annotations

import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from assistants.quantization import errors_alone

#: Weights of a block; larger blocks are smaller in bytes and lose more.
BLOCK = 32
#: onnxruntime's name for the product of blocks in int8.
INT8_PRODUCTS = 4


def in_four_bits(content: bytes) -> bytes:
    """An fp32 graph with its matrices and embeddings in 4 bits."""
    model = onnx.ModelProto.FromString(content)
    # The exporter's shape annotations of intermediate values are those of other weights.
    del model.graph.value_info[:]
    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK,
        is_symmetric=False,
        accuracy_level=INT8_PRODUCTS,
        op_types_to_quantize=("MatMul", "Gather"),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    with errors_alone("onnxruntime.quantization.matmul_nbits_quantizer"):  # which has a line for each node
        quantizer.process()
    return quantizer.model.model.SerializeToString()
