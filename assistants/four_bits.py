"""Graphs whose weights are in 4 bits, for where a bundle's size counts most.

Each block of weights of a column has a scale and a zero point. onnxruntime reads such blocks as they are
(``MatMulNBits``, ``GatherBlockQuantized``), and rounds a row of activations to int8 in blocks as well, so that no row has its scale
from the rows beside it. Sums of fp32 still differ in their last bit: with blocks of 64 and more, rows are taken in pairs, and
an odd one is summed in another order.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx

from assistants.quantization import errors_alone

_handlers, _level = [*logging.root.handlers], logging.root.level
# This module has everything logged when it is imported, the exporter's steps among it, unless it is undone.
from onnxruntime.quantization.matmul_nbits_quantizer import (  # noqa: E402
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)

logging.root.handlers[:] = _handlers
logging.root.setLevel(_level)

#: Weights of a block that onnxruntime knows; larger blocks need less room and lose more.
BLOCK_SIZES = (16, 32, 64, 128, 256)
#: Of these, the one that is taken unless another is asked for.
BLOCK_SIZE = 32
#: onnxruntime's name for the product of blocks in int8.
INT8_PRODUCTS = 4


def in_four_bits(content: bytes, block_size: int) -> bytes:
    """An fp32 graph with its matrices and embeddings in 4 bits, ``block_size`` of :data:`BLOCK_SIZES`."""
    model = onnx.ModelProto.FromString(content)
    # The exporter's shape annotations of intermediate values are those of other weights.
    del model.graph.value_info[:]
    config = DefaultWeightOnlyQuantConfig(
        block_size=block_size,
        is_symmetric=False,
        accuracy_level=INT8_PRODUCTS,
        op_types_to_quantize=("MatMul", "Gather"),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    # The quantizer logs a line for each node, and divides by the scale of blocks that are all zeros before it looks.
    with (
        errors_alone("onnxruntime.quantization.matmul_nbits_quantizer"),
        np.errstate(divide="ignore", invalid="ignore"),
    ):
        # A linear map of a matrix is exported as Gemm, which the quantizer passes over.
        quantizer.model.replace_gemm_with_matmul()
        quantizer.process()
    return quantizer.model.model.SerializeToString()
