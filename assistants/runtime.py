"""Parses with an exported bundle; needs neither torch nor transformers.

>>> from assistants import runtime
>>> parser = runtime.load("models/conv-nar-topv2")
>>> str(parser.parse(["wake me at 6"])[0][0].frame)
'[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]'
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from assistants.bundle import Bundle
from data.topv2.errors import BundleError
from data.topv2.ontology import Ontology
from data.topv2.tokenization import PieceTokenizer
from parsers.nar import DecodingConfig, NonAutoregressiveParser

#: Suffix of a graph's file name for each precision.
PRECISIONS = {"int8": ".int8.onnx", "fp32": ".onnx"}


class OnnxBackend:
    """The onnxruntime side of :class:`parsers.nar.Backend`.

    Args:
        encoder: graph from ``pieces, mask`` to ``memory, lengths``.
        decoder: graph from ``memory, pieces, mask, tokens, target_lengths`` to ``scores``.
        threads: threads of one call, 0 for one a core.
    """

    def __init__(self, encoder: bytes, decoder: bytes, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Optimizations that fuse across quantized operators depend on the machine; results may not differ by that.
        options.log_severity_level = 3
        self._encoder = onnxruntime.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])
        self._decoder = onnxruntime.InferenceSession(decoder, options, providers=["CPUExecutionProvider"])
        self._reads = {entry.name for entry in self._decoder.get_inputs()}

    def encode(self, pieces: np.ndarray, mask: np.ndarray) -> tuple[Any, np.ndarray]:
        """See :class:`parsers.nar.Backend`."""
        memory, lengths = self._encoder.run(None, {"pieces": pieces, "mask": mask})
        return memory, lengths

    def decode(
        self,
        memory: Any,
        rows: np.ndarray,
        pieces: np.ndarray,
        mask: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
    ) -> np.ndarray:
        """See :class:`parsers.nar.Backend`."""
        given = {
            "memory": memory[rows],
            "pieces": pieces[rows],
            "mask": mask[rows],
            "tokens": tokens,
            "target_lengths": lengths,
        }
        return self._decoder.run(None, {name: value for name, value in given.items() if name in self._reads})[0]


class BundleParser(NonAutoregressiveParser):
    """A parser over a bundle.

    Attributes:
        manifest: what the bundle says of itself (metrics, training config, data, licence).
        precision: ``int8`` or ``fp32``.
    """

    manifest: dict[str, Any]
    precision: str


def load(path: Path | str, precision: str | None = None, threads: int = 1) -> BundleParser:
    """Opens a bundle, every file verified by its checksum.

    Args:
        path: folder or ``.zip`` written by ``framefill export``.
        precision: ``int8`` or ``fp32``; None takes int8 where the bundle has it.
        threads: threads of one call, 0 for one a core.

    Raises:
        BundleError: the bundle is missing, corrupted, of another format, or lacks that precision.
    """
    bundle = Bundle(path)
    if precision is None:
        precision = next((name for name, suffix in PRECISIONS.items() if bundle.has("encoder" + suffix)), "int8")
    if precision not in PRECISIONS:
        raise BundleError("E327", f"precision {precision!r} is not known.", remedy=f"One of {', '.join(PRECISIONS)}.")
    suffix = PRECISIONS[precision]
    graphs = bundle.read("encoder" + suffix), bundle.read("decoder" + suffix)
    tokenizer = PieceTokenizer.from_json(bundle.read("tokenizer.json").decode(), str(path))
    ontology = Ontology.from_dict(json.loads(bundle.read("ontology.json")), str(path))
    try:
        decoding = DecodingConfig(**bundle.manifest["decoding"])
        form = bundle.manifest["form"]
        backend = OnnxBackend(*graphs, threads)
        parser = BundleParser(backend, tokenizer, ontology, form, decoding)
    except (KeyError, TypeError) as error:
        raise BundleError("E322", f"the manifest lacks {error}.", where=str(path), remedy="Export again.") from error
    parser.manifest, parser.precision = bundle.manifest, precision
    return parser
