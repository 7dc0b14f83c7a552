"""What the runtime has besides for bundles with a scenario bank; needs faiss and safetensors, and no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from assistants import banks
from assistants.bundle import Bundle
from assistants.onnx_backend import BundleParser, OnnxBackend
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from parsers.aliases import known_options
from parsers.nar import Encoded
from parsers.raf.parser import RAFDecodingConfig, RAFParser, ScenarioTable
from retrieval.bank import ScenarioBank
from retrieval.glosses import GlossBatch, Glosses
from retrieval.scenario import Scenario


class RAFOnnxBackend(OnnxBackend):
    """The onnxruntime side of :class:`parsers.raf.parser.RAFBackend`."""

    def query(self, memory: Any, mask: np.ndarray) -> np.ndarray:
        """See :class:`parsers.raf.parser.RAFBackend`."""
        return self.run("query", {"memory": memory, "mask": mask})[0]

    def fill(self, encoded: Encoded, rows: np.ndarray, places: np.ndarray, table: ScenarioTable) -> np.ndarray:
        """See :class:`parsers.raf.parser.RAFBackend`."""
        leaves, leaf_mask = table.of(places)
        given = {"memory": encoded.memory[rows], "mask": encoded.mask[rows], "leaves": leaves, "leaf_mask": leaf_mask}
        return self.run("fill", given)[0]

    def describe(self, batch: GlossBatch) -> tuple[np.ndarray, np.ndarray]:
        """Vectors ``[N, D]`` of scenarios and the states of their leaves, one after another ``[leaves, W]``."""
        memory, _ = self.encode(batch.pieces, batch.mask)
        vectors, states = self.run("describe", {"memory": memory, "mask": batch.mask, "leaves": batch.leaves})
        return vectors, states[batch.leaf_mask]


class RAFBundleParser(RAFParser, BundleParser):
    """As :class:`BundleParser`, for RAF."""

    backend: RAFOnnxBackend

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
        new = ScenarioBank({s: 0 for s in scenarios if s not in self.table.bank})
        if not len(new):
            return
        style = self.manifest["scenarios"]["gloss"]
        vectors, leaves = self.backend.describe(Glosses(new, self.tokenizer, style).batch(np.arange(len(new))))
        self.use(self.table.added(new, vectors, leaves))
