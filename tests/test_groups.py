"""Groups of utterances, and the memory that long ones take."""

import subprocess
import sys
from pathlib import Path

import pytest

from frames.tokenization import Source
from parsers.groups import PAIRS, SIZE, in_groups


def sources(*lengths: int) -> list[Source]:
    return [Source("", (0,) * n, (0,) * n, (0,) * n, (0,) * n) for n in lengths]


def groups_of(*lengths: int, workers: int = 1) -> list[list[int]]:
    """The lengths in each group, after a check that results come back in order."""
    seen: list[list[int]] = []

    def work(group: list[Source]) -> list[int]:
        seen.append([len(source) for source in group])
        return seen[-1]

    assert in_groups(sources(*lengths), work, workers) == list(lengths)
    return sorted(seen)


@pytest.mark.parametrize("workers", [1, 3])
def test_utterances_of_like_length_are_parsed_together(workers: int):
    assert groups_of(workers=workers) == []
    assert groups_of(5, workers=workers) == [[5]]
    lengths = [1 + (7 * i) % 80 for i in range(3 * SIZE + 5)]
    ordered = sorted(lengths)
    # As many as there ever are of ordinary utterances: their answers hang on who shares a group in int8.
    whole = [ordered[begin : begin + SIZE] for begin in range(0, len(ordered), SIZE)]
    assert groups_of(*lengths, workers=workers) == whole


def test_long_utterances_share_no_group_that_is_too_large():
    found = groups_of(*[500] * 4, *[3] * 40, *[200] * 9)
    assert all(len(group) * max(group) ** 2 <= PAIRS or len(group) == 1 for group in found)
    assert all(len(group) <= SIZE for group in found)
    assert [500] in found
    assert [200] * (PAIRS // 200**2) in found


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells memory by /proc")
@pytest.mark.parametrize("bundle", ["conv-nar-topv2", "raf-topv2"])
def test_memory_of_long_utterances_is_given_back(repository: Path, bundle: str):
    script = (
        "import gc, sys\n"
        "from assistants import runtime\n"
        "parser = runtime.load(sys.argv[1])\n"
        "parser.parse(['play some jazz ' * 150] * 2 + ['what is the weather in ' * 20] * 8)\n"
        "gc.collect()\n"
        "print(int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6)\n"
    )
    command = [sys.executable, "-c", script, str(repository / "models" / bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 400
