"""Nearest scenarios by inner product, on FAISS, never by an index that another encoder or bank made."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from frames.errors import BundleError, UsageError, one_of
from frames.files import sha256, write_bytes, write_json

#: Bits for each number of a vector, of the kinds of index that keep all vectors in fewer.
BITS = {"sq8": faiss.ScalarQuantizer.QT_8bit, "sq6": faiss.ScalarQuantizer.QT_6bit}
#: Kinds of index: exact, those, a navigable graph (Malkov and Yashunin 2020), inverted lists of product-quantized residuals
#: (Jégou et al. 2011).
KINDS = ("flat", *BITS, "hnsw", "ivfpq")
#: How far these reach beyond the numbers that they were fitted to, as a share of their range: scenarios may be added later.
HEADROOM = 0.1
#: Largest sample that inverted lists are trained on, for each list.
TRAINING_VECTORS_PER_LIST = 64

if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not come along into a forked child, whose first parallel search would wait for them for ever.
    os.register_at_fork(after_in_child=lambda: faiss.omp_set_num_threads(1))


@dataclass
class IndexConfig:
    """How scenarios are searched.

    Attributes:
        kind: ``flat`` (exact), ``sq8`` and ``sq6`` (a quarter of its size and less), ``hnsw``, or ``ivfpq`` for banks of a
            million.
        links: neighbours of a node of the graph.
        build_effort: candidates looked at when a node of the graph is placed.
        effort: candidates looked at in a search of the graph, or inverted lists that a search visits.
        code_bytes: bytes of a quantized vector.
    """

    kind: str = "flat"
    links: int = 32
    build_effort: int = 80
    effort: int = 64
    code_bytes: int = 32

    def __post_init__(self) -> None:
        one_of("index kind", self.kind, KINDS)


class ScenarioIndex:
    """Vectors of a bank, searchable.

    Args:
        index: of FAISS.
        encoder: digest of the encoder that made the vectors.
        bank: digest of the bank (:attr:`retrieval.bank.ScenarioBank.digest`).
        config: how it was made.
    """

    def __init__(self, index: Any, encoder: str, bank: str, config: IndexConfig) -> None:
        self.index, self.encoder, self.bank, self.config = index, encoder, bank, config
        if config.kind == "hnsw":
            index.hnsw.efSearch = config.effort
        elif config.kind == "ivfpq":
            index.nprobe = config.effort

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        encoder: str,
        bank: str,
        config: IndexConfig = IndexConfig(),  # noqa: B008
    ) -> ScenarioIndex:
        """Indexes one vector for each scenario, in the order of the bank.

        Args:
            vectors: ``[N, D]``.
            encoder: digest of what made them.
            bank: digest of the bank.
            config: kind and size.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        count, width = vectors.shape
        index: Any
        if config.kind == "flat":
            index = faiss.IndexFlatIP(width)
        elif config.kind in BITS:
            index = faiss.IndexScalarQuantizer(width, BITS[config.kind], faiss.METRIC_INNER_PRODUCT)
            index.sq.rangestat_arg = HEADROOM
            index.train(vectors)
        elif config.kind == "hnsw":
            index = faiss.IndexHNSWFlat(width, config.links, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = config.build_effort
        else:
            lists = max(1, min(4 * int(count**0.5), count // 40))
            code = max(c for c in range(1, config.code_bytes + 1) if width % c == 0)
            # Too few vectors train no 256 centroids for each byte.
            bits = 8 if count >= 10_000 else 4
            index = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, lists, code, bits, faiss.METRIC_INNER_PRODUCT)
            chosen = np.random.default_rng(0).permutation(count)[: max(lists, 256) * TRAINING_VECTORS_PER_LIST]
            index.train(vectors[chosen])
        index.add(vectors)
        return cls(index, encoder, bank, config)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def search(self, queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``n`` nearest scenarios of each query, best first.

        Args:
            queries: ``[B, D]``.
            n: how many; fewer come back from a smaller bank.

        Returns:
            Inner products ``[B, n]`` and places in the bank ``[B, n]``; an approximate index that finds fewer fills up
            with place -1.
        """
        scores, places = self.index.search(np.ascontiguousarray(queries, dtype=np.float32), min(n, len(self)))
        return scores, places

    def added(self, vectors: np.ndarray, bank: str) -> ScenarioIndex:
        """This index and the vectors of further scenarios, made by the same encoder, for the bank that holds both."""
        index = faiss.clone_index(self.index)
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        return ScenarioIndex(index, self.encoder, bank, self.config)

    def removed(self, place: int, bank: str) -> ScenarioIndex:
        """This index without the scenario at a place; those behind it move up.

        Raises:
            UsageError: a graph cannot forget a node.
        """
        if self.config.kind == "hnsw":
            raise UsageError("E442", "an HNSW index cannot forget a scenario.", remedy="Build it again, or use flat.")
        index: Any = faiss.clone_index(self.index)
        index.remove_ids(np.array([place], dtype=np.int64))
        return ScenarioIndex(index, self.encoder, bank, self.config)

    def to_bytes(self) -> bytes:
        """FAISS's own file format."""
        return faiss.serialize_index(self.index).tobytes()

    def save(self, path: Path | str) -> None:
        """Writes the index, and beside it (``.json``) what made it.

        Raises:
            MachineError: the disk is full or the folder cannot be written.
        """
        path, content = Path(path), self.to_bytes()
        write_bytes(path, content)
        write_json(
            path.with_suffix(".json"),
            {
                "encoder": self.encoder,
                "bank": self.bank,
                "config": vars(self.config),
                "sha256": hashlib.sha256(content).hexdigest(),
            },
        )

    @classmethod
    def from_bytes(cls, content: bytes, made: dict[str, Any], bank: str, where: str = "") -> ScenarioIndex:
        """Reads what :meth:`to_bytes` wrote.

        Args:
            content: the file.
            made: ``encoder`` and ``bank`` that made it, and its ``index`` config.
            bank: digest of the bank that its places will be looked up in.
            where: for error messages.

        Raises:
            BundleError: another bank made the index.
        """
        _same("bank", made["bank"], bank, where)
        index = faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))
        return cls(index, made["encoder"], bank, IndexConfig(**made["index"]))

    @classmethod
    def load(cls, path: Path | str, encoder: str, bank: str) -> ScenarioIndex:
        """Maps an index into memory.

        Args:
            path: written by :meth:`save`.
            encoder: digest of the encoder whose queries it will get.
            bank: digest of the bank that its places will be looked up in.

        Raises:
            BundleError: the files are missing or damaged, or another encoder or bank made the index.
        """
        path = Path(path)
        try:
            made = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            intact = sha256(path) == made["sha256"]
            config = IndexConfig(**made["config"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(
                "E342", f"cannot be read as a scenario index ({error!r}).", where=str(path), remedy="Build it again."
            ) from error
        if not intact:
            raise BundleError(
                "E345", "the index is not what its checksum says.", where=str(path), remedy="Build it again."
            )
        for name, wanted in (("encoder", encoder), ("bank", bank)):
            _same(name, made[name], wanted, str(path))
        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP), encoder, bank, config)


def _same(name: str, made: str, wanted: str, where: str) -> None:
    if made != wanted:
        raise BundleError(
            "E343",
            f"the index was made by {name} {made[:12]}, not by {wanted[:12]}.",
            where=where,
            remedy="Build it again from the present encoder and bank.",
        )
