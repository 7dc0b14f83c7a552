"""Nearest scenarios by inner product, on FAISS. An index is refused with another bank than its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, get_args

import faiss
import numpy as np

from frames.errors import BundleError, UsageError

#: Kinds of index: ``flat`` is exact; ``sq8`` and ``sq6`` keep all vectors in 8 or 6 bits a number; ``hnsw`` is a navigable
#: graph (Malkov and Yashunin 2020); ``ivfpq`` is inverted lists of product-quantized residuals (Jégou et al. 2011), for
#: banks of a million.
IndexKind = Literal["flat", "sq8", "sq6", "hnsw", "ivfpq"]
KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
#: Scalar quantizers of FAISS by kind.
QUANTIZERS = {"sq8": faiss.ScalarQuantizer.QT_8bit, "sq6": faiss.ScalarQuantizer.QT_6bit}
#: Margin around the range of the vectors that a scalar quantizer was trained on, as a share of it: scenarios added later
#: may lie outside.
HEADROOM = 0.1
#: Neighbours of a node of the graph, and candidates compared when a node is inserted.
HNSW_LINKS, HNSW_BUILD_CANDIDATES = 32, 80
#: Candidates compared in a search of the graph, or inverted lists visited.
SEARCH_EFFORT = 64
#: Largest number of bytes of a product-quantized vector; it has to divide the width.
MAX_CODE_BYTES = 32
#: Vectors for each inverted list that the quantizer is trained on, at most.
TRAINING_VECTORS_PER_LIST = 64

if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not come along into a forked child, whose first parallel search would wait for them for ever.
    os.register_at_fork(after_in_child=lambda: faiss.omp_set_num_threads(1))


class ScenarioIndex:
    """Vectors of a bank, searchable.

    Args:
        index: of FAISS.
        encoder: digest of the encoder that computed the vectors.
        bank: digest of the bank (:attr:`retrieval.bank.ScenarioBank.digest`).
        kind: of ``index``.

    Raises:
        ValueError: the kind is not one of :data:`KINDS`.
    """

    def __init__(self, index: Any, encoder: str, bank: str, kind: IndexKind) -> None:
        check_kind(kind)
        self.index, self.encoder, self.bank, self.kind = index, encoder, bank, kind
        if kind == "hnsw":
            index.hnsw.efSearch = SEARCH_EFFORT
        elif kind == "ivfpq":
            index.nprobe = SEARCH_EFFORT

    @classmethod
    def build(cls, vectors: np.ndarray, encoder: str, bank: str, kind: IndexKind = "flat") -> ScenarioIndex:
        """Indexes one vector for each scenario, in the order of the bank.

        Args:
            vectors: ``[N, D]``.
            encoder: digest of the encoder that computed them.
            bank: digest of the bank.
            kind: of index.

        Raises:
            ValueError: the kind is not one of :data:`KINDS`.
            UsageError: there are too few vectors for a product quantizer.
        """
        check_kind(kind)
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        count, width = vectors.shape
        index: Any
        if kind == "flat":
            index = faiss.IndexFlatIP(width)
        elif kind in QUANTIZERS:
            index = faiss.IndexScalarQuantizer(width, QUANTIZERS[kind], faiss.METRIC_INNER_PRODUCT)
            index.sq.rangestat_arg = HEADROOM
            index.train(vectors)
        elif kind == "hnsw":
            index = faiss.IndexHNSWFlat(width, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = HNSW_BUILD_CANDIDATES
        else:
            lists = max(1, min(4 * int(count**0.5), count // 40))
            code_bytes = max(c for c in range(1, MAX_CODE_BYTES + 1) if width % c == 0)
            # 256 centroids for each byte need some ten thousand vectors; 16 centroids do with fewer.
            bits = 8 if count >= 10_000 else 4
            if count < 1 << bits:
                raise UsageError(
                    "E347",
                    f"an ivfpq index of {count} scenarios; it needs {1 << bits} at least.",
                    remedy="Use decoding.index: flat.",
                )
            coarse = faiss.IndexFlatIP(width)
            index = faiss.IndexIVFPQ(coarse, width, lists, code_bytes, bits, faiss.METRIC_INNER_PRODUCT)
            sample = np.random.default_rng(0).permutation(count)[: max(lists, 256) * TRAINING_VECTORS_PER_LIST]
            index.train(vectors[sample])
        index.add(vectors)
        return cls(index, encoder, bank, kind)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def search(self, queries: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``n`` nearest scenarios of each query, best first.

        Args:
            queries: ``[B, D]``.
            n: at most so many; a smaller bank gives all of its scenarios.

        Returns:
            Inner products ``[B, n]`` and scenario ids ``[B, n]``; an approximate index that finds fewer fills up with
            id -1.
        """
        scores, scenario_ids = self.index.search(np.ascontiguousarray(queries, dtype=np.float32), min(n, len(self)))
        return scores, scenario_ids

    def added(self, vectors: np.ndarray, bank: str) -> ScenarioIndex:
        """This index and the vectors ``[N, D]`` of further scenarios.

        Args:
            vectors: by the same encoder.
            bank: digest of the bank with the further scenarios.
        """
        index = faiss.clone_index(self.index)
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        return ScenarioIndex(index, self.encoder, bank, self.kind)

    def removed(self, scenario_id: int, bank: str) -> ScenarioIndex:
        """This index without a scenario; the ids after it shift down by one.

        Args:
            scenario_id: position in the bank.
            bank: digest of the bank without the scenario.

        Raises:
            UsageError: an HNSW graph cannot remove a node, and the ids of inverted lists do not shift.
        """
        if self.kind in ("hnsw", "ivfpq"):
            raise UsageError(
                "E442",
                f"an index of kind {self.kind} cannot remove a scenario.",
                remedy="Build it again, or use decoding.index: flat.",
            )
        index: Any = faiss.clone_index(self.index)
        index.remove_ids(np.array([scenario_id], dtype=np.int64))
        return ScenarioIndex(index, self.encoder, bank, self.kind)

    def to_bytes(self) -> bytes:
        """FAISS's own file format."""
        return faiss.serialize_index(self.index).tobytes()

    def to_dict(self) -> dict[str, Any]:
        """Encoder, bank and kind, for the manifest of a bundle."""
        return {"encoder": self.encoder, "bank": self.bank, "index": {"kind": self.kind}}

    @classmethod
    def from_bytes(cls, content: bytes, metadata: Mapping[str, Any], bank: str, where: str = "") -> ScenarioIndex:
        """Reads what :meth:`to_bytes` wrote.

        Args:
            content: the file.
            metadata: as :meth:`to_dict` gives it.
            bank: digest of the bank that its scenario ids refer to.
            where: for error messages.

        Raises:
            BundleError: the index is of another bank, or of an unknown kind.
        """
        if metadata["bank"] != bank:
            raise BundleError(
                "E343",
                f"the index is of bank {metadata['bank'][:12]}, not of {bank[:12]}.",
                where=where,
                remedy="Export the bundle again.",
            )
        kind = _kind_of(metadata, where)
        index = faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))
        return cls(index, metadata["encoder"], bank, kind)


def check_kind(kind: str) -> None:
    """Checks the name of a kind of index, wherever it comes from a file or from Python.

    Raises:
        ValueError: the kind is not one of :data:`KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"index kind {kind!r}: one of {', '.join(KINDS)}")


def _kind_of(metadata: Mapping[str, Any], where: str) -> IndexKind:
    """The kind of index in its metadata; earlier versions wrote further options of FAISS beside it."""
    kind = metadata["index"]["kind"]
    try:
        check_kind(kind)
    except ValueError as error:
        raise BundleError(
            "E346", f"{error}.", where=where, remedy="Update framefill, or build the index again."
        ) from error
    return kind
