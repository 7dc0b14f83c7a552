"""A forked child answers, whatever its parent did before: what gunicorn --preload and multiprocessing on Linux rely on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.index import KINDS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

#: Prints what ``work()`` gives here and in a forked child, which is killed when it takes longer than 20 seconds.
IN_A_CHILD = """
import os, signal, sys
import faiss
faiss.omp_set_num_threads(4)  # on a machine of one core as well

def check(work, before):
    reader, writer = os.pipe()
    for use in range(before):
        expected = work()
    if os.fork() == 0:
        signal.alarm(20)
        os.write(writer, repr(work()).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        found = stream.read().decode()
    print("answered" if found == repr(work()) else f"other: {found}")
"""

SEARCH = """
import numpy as np
from retrieval.index import ScenarioIndex
vectors = np.random.default_rng(0).normal(size=(600, 16)).astype("f")
index = ScenarioIndex.build(vectors, "encoder", "bank", sys.argv[1])
for queries in (1, 5, 64):
    check(lambda: index.search(vectors[:queries], 4)[1].tolist(), 1)
check(lambda: len(index.added(vectors[:9], "other")), 1)
"""

PARSE = """
from assistants import runtime
parser = runtime.load(sys.argv[1], threads=int(sys.argv[3]))
several = ["wake me at 6", "play queen", "is it raining in Berlin", "remind me to call mum"] * 10
for utterances in (several[:1], several):
    check(lambda: [str(found[0].frame) for found in parser.parse(utterances)], int(sys.argv[2]))
check(lambda: [str(hypothesis.frame) for hypothesis in parser.parse(several[:1], 3)[0]], int(sys.argv[2]))
"""


def run(script: str, *words: str) -> list[str]:
    command = [sys.executable, "-c", IN_A_CHILD + script, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_index_is_searched_in_a_child(kind: str):
    assert run(SEARCH, kind) == ["answered"] * 4


@pytest.mark.parametrize("bundle", ["conv-nar-topv2", "span-pointer-topv2", "raf-topv2"])
@pytest.mark.parametrize(("used_before", "threads"), [(0, 1), (1, 3)])
def test_every_bundle_parses_in_a_child(repository: Path, bundle: str, used_before: int, threads: int):
    assert run(PARSE, str(repository / "models" / bundle), str(used_before), str(threads)) == ["answered"] * 3
