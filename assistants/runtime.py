"""Parses with an exported bundle; needs neither torch nor transformers, and faiss only for a bundle with a bank.

>>> from assistants import runtime
>>> parser = runtime.load("models/conv-nar-topv2")
>>> str(parser.parse(["wake me at 6"])[0][0].frame)
'[IN:CREATE_ALARM [SL:DATE_TIME at 6 ] ]'
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from assistants.bundle import Bundle
from data.topv2.errors import BundleError
from data.topv2.ontology import Ontology
from data.topv2.tokenization import PieceTokenizer
from parsers.nar import DecodingConfig, Encoded, NonAutoregressiveParser

#: Suffix of a graph's file name for each precision.
PRECISIONS = {"int8": ".int8.onnx", "fp32": ".onnx"}


class OnnxBackend:
    """The onnxruntime side of :class:`parsers.nar.Backend`.

    Args:
        graphs: ``encoder`` (``pieces, mask`` to ``memory, lengths``), ``decoder`` (``memory, pieces, mask, tokens,
            target_lengths`` to ``scores``), ``rescorer`` (as the decoder) where frames are rescored, and whatever else the
            kind of parser has.
    """

    def __init__(self, graphs: Mapping[str, bytes]) -> None:
        options = onnxruntime.SessionOptions()
        # The matrices are small: a batch gains more from groups of utterances side by side (`load`, threads).
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # Optimizations that fuse across quantized operators depend on the machine; results may not differ by that.
        options.log_severity_level = 3
        self._sessions = {
            name: onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            for name, graph in graphs.items()
        }
        self._reads = {name: {e.name for e in session.get_inputs()} for name, session in self._sessions.items()}

    def run(self, graph: str, given: Mapping[str, np.ndarray]) -> list[Any]:
        """The outputs of a graph; inputs that it does not read are left out."""
        reads = self._reads[graph]
        return self._sessions[graph].run(None, {name: value for name, value in given.items() if name in reads})

    def encode(self, pieces: np.ndarray, mask: np.ndarray) -> tuple[Any, np.ndarray]:
        """See :class:`parsers.nar.Backend`."""
        memory, lengths = self.run("encoder", {"pieces": pieces, "mask": mask})
        return memory, lengths

    def decode(self, encoded: Encoded, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """See :class:`parsers.nar.Backend`."""
        return self._judge("decoder", encoded, rows, tokens, lengths)

    def rescore(self, encoded: Encoded, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """See :class:`parsers.nar.Backend`."""
        return self._judge("rescorer", encoded, rows, tokens, lengths)

    def _judge(
        self, graph: str, encoded: Encoded, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        """The output of a graph that reads targets over rows of a batch."""
        given = {
            "memory": encoded.memory[rows],
            "pieces": encoded.pieces[rows],
            "mask": encoded.mask[rows],
            "tokens": tokens,
            "target_lengths": lengths,
        }
        return self.run(graph, given)[0]


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
        threads: groups of utterances that are parsed side by side, 0 for one a core.

    Raises:
        BundleError: the bundle is missing, corrupted, of another format, or lacks that precision.
    """
    bundle = Bundle(path)
    if precision is None:
        precision = next((name for name, suffix in PRECISIONS.items() if bundle.has("encoder" + suffix)), "int8")
    if precision not in PRECISIONS:
        raise BundleError("E327", f"precision {precision!r} is not known.", remedy=f"One of {', '.join(PRECISIONS)}.")
    graphs = {name: bundle.read(name + PRECISIONS[precision]) for name in ("encoder", "decoder")}
    tokenizer = PieceTokenizer.from_json(bundle.read("tokenizer.json").decode(), str(path))
    ontology = Ontology.from_dict(json.loads(bundle.read("ontology.json")), str(path))
    parser: BundleParser
    try:
        decoding, form = bundle.manifest["decoding"], bundle.manifest["form"]
        if decoding.get("rescored"):
            graphs["rescorer"] = bundle.read("rescorer" + PRECISIONS[precision])
        if "scenarios" in bundle.manifest:
            from assistants.raf import RAFBundleParser

            parser = RAFBundleParser.of(bundle, PRECISIONS[precision], graphs, tokenizer, ontology)
        else:
            backend = OnnxBackend(graphs)
            parser = BundleParser(backend, tokenizer, ontology, form, DecodingConfig(**decoding))
    except (KeyError, TypeError) as error:
        raise BundleError("E322", f"the manifest lacks {error}.", where=str(path), remedy="Export again.") from error
    parser.manifest, parser.precision = bundle.manifest, precision
    parser.workers = threads or os.cpu_count() or 1
    return parser
