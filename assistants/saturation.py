"""Whether this processor computes products of unsigned activations and signed int8 weights exactly."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime

#: An ONNX model of one ``MatMulInteger``: uint8 ``a`` times int8 ``b``. The runtime cannot make it, for it has no onnx.
PRODUCT = (
    b'\x08\x08:>\n\x18\n\x01a\n\x01b\x12\x01y"\rMatMulInteger\x12\x01pZ\t\n\x01a\x12\x04\n\x02\x08\x02'
    b"Z\t\n\x01b\x12\x04\n\x02\x08\x03b\t\n\x01y\x12\x04\n\x02\x08\x06B\x04\n\x00\x10\n"
)
#: Terms of each sum.
TERMS = 64


@cache
def saturates() -> bool:
    """Whether sums are cut off, as x86 processors without VNNI do with the sum of two products, which they hold in 16 bits.

    Asked of the processor itself: the largest numbers that there are, whose sum is known.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(PRODUCT, options, providers=["CPUExecutionProvider"])
    given = {"a": np.full((4, TERMS), 255, np.uint8), "b": np.full((TERMS, 16), 127, np.int8)}
    return bool((session.run(None, given)[0] != 255 * 127 * TERMS).any())
