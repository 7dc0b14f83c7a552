"""How scenario search grows with the bank: recall, latency, memory and build time of every kind of index.

    python -m benchmarks.retrieval_scale --sizes 1000 10000 100000 1000000

The vectors are synthetic: unit vectors around centres, as scenarios that share an intent lie around it; a query is the
vector of one of them, moved. Recall is agreement with exact search on the first place. One thread, one query at a time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from rich.progress import track

from frames.files import write_bytes, write_json
from frames.plots import canvas, png
from lightning_modules.evaluation import environment
from retrieval.index import KINDS, IndexKind, ScenarioIndex

#: Vectors around one centre.
FAMILY = 50
#: Length of what parts a vector from its centre, and a query from its vector.
SPREAD, MOVED = 1.0, 0.5


def main() -> None:
    """Measures, prints, writes JSON and a plot."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", nargs="+", type=int, default=[1_000, 10_000, 100_000, 1_000_000])
    options.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    options.add_argument("--width", type=int, default=128)
    options.add_argument("--queries", type=int, default=500)
    options.add_argument("--out", type=Path, default=Path("results/retrieval_scale.json"))
    given = options.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in given.kinds}
    for size in track(given.sizes, "banks"):
        vectors, queries = synthetic(size, given.width, given.queries)
        exact = ScenarioIndex.build(vectors, "synthetic", "synthetic").search(queries, 1)[1][:, 0]
        for kind in given.kinds:
            found[kind][str(size)] = measure(vectors, queries, exact, kind)
            print(kind, size, found[kind][str(size)], flush=True)
    result = {"width": given.width, "queries": given.queries, "by_kind": found, "environment": environment()}
    write_json(given.out, result)
    write_bytes(given.out.with_suffix(".png"), plot(found))


def synthetic(size: int, width: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors ``[size, width]`` and queries ``[queries, width]``."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(1, size // FAMILY), width)).astype(np.float32)
    noise = SPREAD * rng.normal(size=(size, width)).astype(np.float32)
    vectors = _unit(centres[rng.integers(0, len(centres), size)] + noise)
    moved = MOVED * rng.normal(size=(queries, width)).astype(np.float32) * width**-0.5
    return vectors, _unit(vectors[rng.integers(0, size, queries)] + moved)


def measure(vectors: np.ndarray, queries: np.ndarray, exact: np.ndarray, kind: IndexKind) -> dict[str, float]:
    """Figures of one index, beside exact search's first places ``[Q]``."""
    clock = time.perf_counter()
    index = ScenarioIndex.build(vectors, "synthetic", "synthetic", kind)
    built = time.perf_counter() - clock
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    spent, right = [], 0
    for query, wanted in zip(queries, exact, strict=True):
        clock = time.perf_counter()
        _, places = index.search(query[None], 16)
        spent.append(1000 * (time.perf_counter() - clock))
        right += int(places[0, 0] == wanted)
    faiss.omp_set_num_threads(threads)
    return {
        "recall_at_1": round(100 * right / len(queries), 2),
        "p50_ms": round(float(np.percentile(spent, 50)), 4),
        "p99_ms": round(float(np.percentile(spent, 99)), 4),
        "megabytes": round(len(index.to_bytes()) / 1e6, 2),
        "build_seconds": round(built, 2),
    }


def plot(found: dict[str, dict[str, dict[str, float]]]) -> bytes:
    """Every figure against the size of the bank, a line for each kind, as PNG."""
    names = ("recall_at_1", "p50_ms", "megabytes", "build_seconds")
    figure, columns = canvas(11, 3, len(names))
    for axes, name in zip(columns, names, strict=True):
        for kind, sizes in found.items():
            axes.plot([int(size) for size in sizes], [entry[name] for entry in sizes.values()], marker="o", label=kind)
        axes.set(xscale="log", xlabel="scenarios", title=name.replace("_", " "))
        if name != "recall_at_1":
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
    return png(figure)


def _unit(vectors: Any) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
