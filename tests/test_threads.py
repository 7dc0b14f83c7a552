"""One parser asked by many threads at once, as a server does."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from assistants import runtime
from retrieval.scenario import Scenario

UTTERANCES = [
    "wake me at 6",
    "remind me to call mum at 6 and tell dad that I am late",
    "is it raining in Berlin",
    "play some jazz",
    "how long does it take to drive to Boston if I leave at 5 pm",
    "x",
]


@pytest.mark.parametrize("name", ["conv-nar-topv2", "raf-topv2"])
def test_threads_that_ask_at_once_get_the_frames_of_one(name: str, repository: Path):
    parser = runtime.load(repository / "models" / name)
    parser.warm_up()
    alone = [parser.parse([utterance]) for utterance in UTTERANCES]
    together = parser.parse(UTTERANCES)

    def ask(place: int) -> bool:
        if place % 7 == 0:
            return parser.parse(UTTERANCES) == together
        return parser.parse([UTTERANCES[place % 6]]) == alone[place % 6]

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(24)))


def test_scenarios_are_added_while_others_ask(repository: Path):
    parser = runtime.load(repository / "models" / "raf-topv2")
    expected = [str(found[0].frame) for found in parser.parse(UTTERANCES[:3])]

    def add(number: int) -> None:
        parser.add([Scenario.parse(f"[IN:ODD_{number} [SL:ODD_{number} ] ]")])  # type: ignore[attr-defined]

    def ask(_: int) -> list[str]:
        return [str(found[0].frame) for found in parser.parse(UTTERANCES[:3])]

    with ThreadPoolExecutor(4) as pool:
        adding = [pool.submit(add, number) for number in range(8)]
        answers = list(pool.map(ask, range(8)))
    for added in adding:
        added.result()
    assert len([s for s in parser.table.bank if "ODD" in str(s)]) == 8  # type: ignore[attr-defined]
    assert answers == [expected] * 8
