"""What the runtime has besides for bundles with a scenario bank; needs faiss and safetensors, and no torch."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from assistants import banks
from assistants.bundle import Bundle
from assistants.onnx_backend import NARBundleParser, OnnxBackend
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from parsers.aliases import known_options
from parsers.nar import Encoded
from parsers.raf.candidate import RAFDecodingConfig
from parsers.raf.parser import RAFParser
from retrieval.bank import ScenarioBank
from retrieval.glosses import GlossBatch, Glosses
from retrieval.scenario import Scenario
from retrieval.table import ScenarioTable


class RAFOnnxBackend(OnnxBackend):
    """The onnxruntime side of :class:`parsers.raf.parser.RAFBackend`."""

    def query(self, memory: Any, mask: np.ndarray) -> np.ndarray:
        """See :class:`parsers.raf.parser.RAFBackend`."""
        return self.run("query", {"memory": memory, "mask": mask})[0]

    def fill(self, encoded: Encoded, rows: np.ndarray, scenario_ids: np.ndarray, table: ScenarioTable) -> np.ndarray:
        """See :class:`parsers.raf.parser.RAFBackend`."""
        leaves, leaf_mask = table.leaf_states(scenario_ids)
        given = {"memory": encoded.memory[rows], "mask": encoded.mask[rows], "leaves": leaves, "leaf_mask": leaf_mask}
        return self.run("fill", given)[0]

    def describe(self, batch: GlossBatch) -> tuple[np.ndarray, np.ndarray]:
        """Vectors ``[N, D]`` of scenarios and the states of their leaves, one after another ``[leaves, W]``."""
        memory, _ = self.encode(batch.pieces, batch.mask)
        vectors, states = self.run("describe", {"memory": memory, "mask": batch.mask, "leaves": batch.leaves})
        return vectors, states[batch.leaf_mask]


class RAFBundleParser(RAFParser, NARBundleParser):
    """As :class:`assistants.onnx_backend.BundleParser`, for RAF."""

    backend: RAFOnnxBackend

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._adding = threading.Lock()

    @classmethod
    def of(
        cls, bundle: Bundle, suffix: str, shared: Mapping[str, bytes], tokenizer: PieceTokenizer, ontology: Ontology
    ) -> RAFBundleParser:
        """The parser of a bundle.

        Args:
            bundle: what it is read from.
            suffix: of the names of quantized graphs' files.
            shared: graphs that other kinds of parser have as well, read already.
            tokenizer: cuts utterances.
            ontology: labels and nesting of what can be composed.

        Raises:
            BundleError: a graph or the bank is missing or damaged.
        """
        own = {name: bundle.read(name + suffix) for name in ("query", "describe", "fill")}
        decoding = RAFDecodingConfig(**known_options(RAFDecodingConfig, bundle.manifest["decoding"]))
        return cls(RAFOnnxBackend({**shared, **own}), tokenizer, ontology, banks.read(bundle), decoding)

    def add(self, scenarios: Iterable[Scenario]) -> None:
        """Makes scenarios known without training, from then on and in this process; ``framefill bank add`` keeps them.

        Raises:
            UsageError: a scenario is too long to be read.
        """
        wanted = list(scenarios)
        # One after another, or what one thread adds is lost in the table of another.
        with self._adding:
            new = ScenarioBank({s: 0 for s in wanted if s not in self.table.bank})
            if not len(new):
                return
            style = self.manifest["scenarios"]["gloss"]
            vectors, leaves = self.backend.describe(Glosses(new, self.tokenizer, style).batch(np.arange(len(new))))
            self.use(self.table.added(new, vectors, leaves))
