"""An exported bundle's graphs behind the parsers' backend; needs onnxruntime, and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

from assistants.saturation import saturates
from frames.tokenization import PieceTokenizer
from parsers.interface import Parser
from parsers.nar import Encoded, NonAutoregressiveParser


class OnnxGraphs:
    """Graphs that are ready to be run.

    Args:
        graphs: content by name.
    """

    #: Settings of onnxruntime sessions beside its defaults.
    settings: Mapping[str, str] = {}

    def __init__(self, graphs: Mapping[str, bytes]) -> None:
        options = onnxruntime.SessionOptions()
        for name, value in self.settings.items():
            options.add_session_config_entry(name, value)
        if saturates():
            # Slower instructions that do not.
            options.add_session_config_entry("session.x64quantprecision", "1")
        # The matrices are small: a batch gains more from groups of utterances side by side (`load`, threads).
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # Optimizations that fuse across quantized operators depend on the machine; results may not differ by that.
        options.log_severity_level = 3
        # An arena keeps what its largest batch took for good; without one, ordinary batches are no slower.
        options.enable_cpu_mem_arena = False
        self._sessions = {
            name: onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            for name, graph in graphs.items()
        }
        for session in self._sessions.values():
            # Kept for a change of provider, which never happens here: as much memory as the bundle has bytes.
            session._model_bytes = b""
        self._reads = {name: {e.name for e in session.get_inputs()} for name, session in self._sessions.items()}

    def run(self, graph: str, given: Mapping[str, np.ndarray]) -> list[Any]:
        """The outputs of a graph; inputs that it does not read are left out."""
        reads = self._reads[graph]
        return self._sessions[graph].run(None, {name: value for name, value in given.items() if name in reads})


class OnnxBackend(OnnxGraphs):
    """The onnxruntime side of :class:`parsers.nar.Backend`.

    Args:
        graphs: ``encoder`` (``pieces, mask`` to ``memory, lengths``), ``decoder`` (``memory, pieces, mask, tokens,
            target_lengths`` to ``scores``), ``rescorer`` (as the decoder) where frames are rescored, and whatever else the
            kind of parser has.
    """

    def encode(self, pieces: np.ndarray, mask: np.ndarray) -> tuple[Any, np.ndarray]:
        """See :class:`parsers.nar.Backend`."""
        memory, lengths = self.run("encoder", {"pieces": pieces, "mask": mask})
        return memory, lengths

    def decode(self, encoded: Encoded, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """See :class:`parsers.nar.Backend`."""
        return self._run_decoder("decoder", encoded, rows, tokens, lengths)

    def rescore(self, encoded: Encoded, rows: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """See :class:`parsers.nar.Backend`."""
        return self._run_decoder("rescorer", encoded, rows, tokens, lengths)

    def _run_decoder(
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


class BundleParser(Parser):
    """A parser over a bundle of any kind.

    Attributes:
        manifest: what the bundle says of itself (metrics, training config, data, licence).
        precision: a name in :data:`assistants.bundle.PRECISIONS`.
        workers: threads that parse groups of utterances side by side.
        tokenizer: what reads utterances; it refuses those that cannot be parsed.
    """

    manifest: dict[str, Any]
    precision: str
    workers: int
    tokenizer: PieceTokenizer

    def warm_up(self) -> None:
        """Parses once, so that the first request takes no longer than those after it."""
        self.parse(["wake me at 6"])


class NARBundleParser(NonAutoregressiveParser, BundleParser):
    """As :class:`BundleParser`, for parsers that write all positions at once."""

    #: The int8 graphs' small operators are fastest while their operands stay in a core's cache.
    group_size = 16
