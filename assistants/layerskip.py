"""LayerSkip in a bundle: a language model run layer by layer with onnxruntime; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assistants.onnx_backend import BundleParser, OnnxGraphs
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from parsers.aliases import known_options
from parsers.layerskip.decoding import LayerSkipDecodingConfig
from parsers.layerskip.parser import LayerSkipParser
from parsers.layerskip.spelling import Spelling


@dataclass(frozen=True)
class LanguageModel:
    """What the manifest says of the language model, for its graphs show nothing of it.

    Attributes:
        exit_layer: layers in the graph ``early``; the graph ``late`` has the others.
        layers: of the whole model.
        heads: of keys and values.
        head_width: channels of a head.
        width: channels of states.
        context: positions that the model has.
        style: how frames are written, see :class:`parsers.layerskip.spelling.Spelling`.
        read_both_ways: whether pieces of the utterance see those after them.
    """

    exit_layer: int
    layers: int
    heads: int
    head_width: int
    width: int
    context: int
    style: str
    read_both_ways: bool


@dataclass
class OnnxMemory:
    """Keys and values of a batch at the positions of their tokens, and the states at the exit.

    Attributes:
        keys: ``[B, layers, heads, capacity, head]``; the last position is scratch space for padding.
        values: as ``keys``.
        states: ``[B, capacity, width]`` after the layers that draft.
        prompts: ``[B]`` lengths of the prompts.
    """

    keys: np.ndarray
    values: np.ndarray
    states: np.ndarray
    prompts: np.ndarray


class LayerSkipOnnxBackend(OnnxGraphs):
    """The onnxruntime side of :class:`parsers.layerskip.backend.Backend`.

    Args:
        graphs: ``early`` and ``late`` layers (tokens or states, ``positions, seen, sees, keys, values`` to states and the
            keys and values of these tokens) and ``head`` (``states, tokens`` to ``logits``).
        model: sizes.
        vocabulary: tokens of the model.
    """

    # Matrices become fp32 once, when they are loaded, in place of every time that they are used.
    settings = {"session.disable_quant_qdq": "1"}

    def __init__(self, graphs: Mapping[str, bytes], model: LanguageModel, vocabulary: int) -> None:
        super().__init__(graphs)
        self.model, self.vocabulary = model, vocabulary
        self.depth = model.layers
        self.exits: tuple[int, ...] = (model.exit_layer, model.layers)

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> OnnxMemory:
        """See :class:`parsers.layerskip.backend.Backend`."""
        m, rows = self.model, len(prompts)
        shape = (rows, m.layers, m.heads, capacity, m.head_width)
        return OnnxMemory(
            np.zeros(shape, np.float32),
            np.zeros(shape, np.float32),
            np.zeros((rows, capacity, m.width), np.float32),
            np.array([len(prompt) for prompt in prompts]),
        )

    def draft(
        self, memory: OnnxMemory, rows: np.ndarray, tokens: np.ndarray, positions: np.ndarray, exit_layer: int
    ) -> np.ndarray:
        """See :class:`parsers.layerskip.backend.Backend`."""
        states = self._run("early", memory, rows, positions, {"tokens": tokens})
        memory.states[rows[:, None], positions] = states
        if exit_layer < self.depth:
            return states
        return self._run("late", memory, rows, positions, {"states": states})

    def finish(self, memory: OnnxMemory, rows: np.ndarray, positions: np.ndarray, exit_layer: int) -> np.ndarray:
        """See :class:`parsers.layerskip.backend.Backend`."""
        return self._run("late", memory, rows, positions, {"states": memory.states[rows[:, None], positions]})

    def scores(self, states: np.ndarray, index: np.ndarray, tokens: Sequence[np.ndarray] | None) -> list[np.ndarray]:
        """See :class:`parsers.layerskip.backend.Backend`."""
        chosen = states[index[:, 0], index[:, 1]]
        if tokens is None:
            return list(self.run("head", {"states": chosen, "tokens": np.arange(self.vocabulary)})[0])
        union = tokens[0] if len(tokens) == 1 else np.unique(np.concatenate(tokens))
        logits = self.run("head", {"states": chosen, "tokens": union})[0]
        return [row[np.searchsorted(union, some)] for row, some in zip(logits, tokens, strict=True)]

    def _run(
        self, graph: str, memory: OnnxMemory, rows: np.ndarray, positions: np.ndarray, given: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Runs layers over tokens, and keeps their keys and values."""
        exit_layer = self.model.exit_layer
        layers = slice(0, exit_layer) if graph == "early" else slice(exit_layer, self.depth)
        begins = positions[:, :1] % (memory.keys.shape[3] - 1)  # a row of padding alone has nothing before it
        earlier = int(begins.max())
        prompts = memory.prompts[rows][:, None, None]
        steps = np.arange(earlier)
        # A row's tokens follow each other, so what it sees is before its first token or among them.
        seen = np.broadcast_to((steps < begins)[:, None], (*positions.shape, earlier))
        sees = positions[:, None, :] <= positions[:, :, None]
        if self.model.read_both_ways:
            sees |= (positions[:, None, :] < prompts) & (positions[:, :, None] < prompts)
        alone = len(rows) == 1
        picked = slice(int(rows[0]), int(rows[0]) + 1) if alone else rows
        found, keys, values = self.run(
            graph,
            {
                **given, "positions": positions, "seen": seen, "sees": sees,
                "keys": memory.keys[picked, layers, :, :earlier], "values": memory.values[picked, layers, :, :earlier],
            },
        )  # fmt: skip
        for store, new in ((memory.keys, keys), (memory.values, values)):
            if alone:
                begin = int(positions[0, 0])
                store[rows[0], layers, :, begin : begin + positions.shape[1]] = new[0]
            else:
                store[rows[:, None], layers, :, positions] = new.transpose(0, 3, 1, 2, 4)
        return found


class LayerSkipBundleParser(LayerSkipParser, BundleParser):
    """As :class:`assistants.onnx_backend.BundleParser`, for LayerSkip."""

    @classmethod
    def of(
        cls, manifest: Mapping[str, Any], graphs: Mapping[str, bytes], tokenizer: PieceTokenizer, ontology: Ontology
    ) -> LayerSkipBundleParser:
        """The parser of a bundle.

        Args:
            manifest: of the bundle.
            graphs: see :class:`LayerSkipOnnxBackend`.
            tokenizer: cuts utterances.
            ontology: labels and nesting.

        Raises:
            TypeError: the manifest lacks what is said of the language model.
        """
        model = LanguageModel(**manifest["language_model"])
        spelling = Spelling.of(ontology, tokenizer, model.style)  # type: ignore[arg-type]
        backend = LayerSkipOnnxBackend(graphs, model, spelling.vocab_size)
        config = LayerSkipDecodingConfig(**known_options(LayerSkipDecodingConfig, manifest["decoding"]))
        return cls(backend, tokenizer, ontology, spelling, config, model.context)
