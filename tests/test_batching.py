"""The queue before the parser, without a parser."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from assistants.answers import Answer
from assistants.serving.batching import Batcher, Job
from assistants.serving.limits import RefusedError


class Slow:
    """Answers once it is let go; remembers what it was given."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, jobs: Sequence[Job]) -> list[list[Answer] | Exception]:
        self.batches.append([text for job in jobs for text in job.texts])
        assert len({job.n_best for job in jobs}) == 1
        assert self.go.wait(10)
        return [
            KeyError("bad") if "bad" in job.texts else [Answer(text, [], False) for text in job.texts] for job in jobs
        ]


async def asked(batcher: Batcher, *requests: tuple[list[str], int]) -> list[asyncio.Task[list[Answer]]]:
    tasks = []
    for texts, n_best in requests:
        tasks.append(asyncio.create_task(batcher.parse(texts, n_best)))
        await asyncio.sleep(0)
    return tasks


def test_what_waits_is_parsed_together():
    async def check() -> None:
        work = Slow()
        batcher = Batcher(work, batch=3, waiting=20)
        tasks = await asked(
            batcher, (["a"], 1), (["b"], 1), (["c"], 2), (["d"], 1), (["e", "f", "g", "h"], 1), (["i"], 1), (["j"], 2)
        )
        assert batcher.waiting == 9
        work.go.set()
        found = [[answer.text for answer in await task] for task in tasks]
        assert found == [["a"], ["b"], ["c"], ["d"], ["e", "f", "g", "h"], ["i"], ["j"]]
        assert work.batches == [["a"], ["b", "d", "i"], ["c", "j"], ["e", "f", "g", "h"]]
        assert batcher.waiting == 0

    asyncio.run(check())


def test_a_batch_of_one_switches_batching_off():
    async def check() -> None:
        work = Slow()
        work.go.set()
        batcher = Batcher(work, batch=1, waiting=9)
        await asyncio.gather(*await asked(batcher, (["a"], 1), (["b"], 1), (["c"], 1)))
        assert work.batches == [["a"], ["b"], ["c"]]

    asyncio.run(check())


def test_errors_reach_their_own_request_and_the_next_is_answered():
    async def check() -> None:
        work = Slow()
        work.go.set()
        batcher = Batcher(work, batch=4, waiting=9)
        tasks = await asked(batcher, (["x"], 1), (["bad"], 1), (["y"], 1))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found] == [list, KeyError, list]
        batcher._work = lambda jobs: [][1]
        with pytest.raises(IndexError):
            await batcher.parse(["x"], 1)
        batcher._work = work
        assert len(await batcher.parse(["x"], 1)) == 1

    asyncio.run(check())


def test_a_full_queue_refuses_and_who_gave_up_leaves_it():
    async def check() -> None:
        work = Slow()
        batcher = Batcher(work, batch=4, waiting=2)
        first, second, third = await asked(batcher, (["a"], 1), (["b"], 1), (["c"], 1))
        with pytest.raises(RefusedError, match="E525"):
            await batcher.parse(["d"], 1)
        second.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        work.go.set()
        await first
        assert [answer.text for answer in await third] == ["c"]
        assert work.batches == [["a"], ["c"]]

    asyncio.run(check())


def test_closing_waits_for_all_that_was_accepted():
    async def check() -> None:
        work = Slow()
        batcher = Batcher(work, batch=1, waiting=9, threads=2)
        tasks = await asked(batcher, (["a"], 1), (["b"], 1), (["c"], 1), (["d"], 1))
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.05)
        assert not closing.done() and sorted(work.batches) == [["a"], ["b"]]
        work.go.set()
        await closing
        assert [answer.text for task in tasks for answer in task.result()] == ["a", "b", "c", "d"]

    asyncio.run(check())
