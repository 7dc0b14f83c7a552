"""Dynamic micro-batching: utterances that wait while others are parsed are parsed together.

Nothing waits for company. A thread that becomes free takes all that has come meanwhile, up to a batch: an idle server
answers a lone request at once, and a busy one has large batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from assistants.answers import Answer
from assistants.serving.limits import RefusedError


@dataclass
class Job:
    """Utterances of one request, and where their answers go."""

    texts: list[str]
    n_best: int
    done: asyncio.Future[list[Answer]] = field(repr=False)


#: Parses the utterances of several jobs, which ask for equally many readings: answers, or the job's own error, for each job.
Work = Callable[[Sequence[Job]], Sequence[list[Answer] | Exception]]


class Batcher:
    """A queue of jobs before threads that parse.

    Args:
        work: called in a thread.
        batch: utterances that are parsed together at most, unless one job has more.
        waiting: utterances in the queue at most.
        threads: batches that are parsed side by side.
    """

    def __init__(self, work: Work, batch: int, waiting: int, threads: int = 1) -> None:
        self._work, self._batch, self._most = work, batch, waiting
        self._jobs: deque[Job] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="parse")
        self._free = threads
        self._running: set[asyncio.Task[None]] = set()
        #: Utterances in the queue.
        self.waiting = 0

    async def parse(self, texts: list[str], n_best: int) -> list[Answer]:
        """Parses utterances, alone or together with those of others.

        Raises:
            RefusedError: the queue is full.
            UsageError: as :meth:`parsers.interface.Parser.parse`.
        """
        if self.waiting + len(texts) > self._most:
            raise RefusedError(
                "E525", f"{self.waiting} utterances are waiting to be parsed.", remedy="Try again in a second."
            )
        job = Job(texts, n_best, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self.waiting += len(texts)
        self._start()
        try:
            return await job.done
        finally:
            if job.done.cancelled() and job in self._jobs:  # the client is gone, or its time is over
                self._jobs.remove(job)
                self.waiting -= len(texts)

    async def close(self) -> None:
        """Waits until all jobs are done."""
        while self._running:
            await asyncio.wait(self._running)
        self._pool.shutdown()

    def _start(self) -> None:
        """Gives the jobs that wait to the threads that are free."""
        while self._free and self._jobs:
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._run(self._take()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _take(self) -> list[Job]:
        """The first job and those behind it that are parsed with it, in their order."""
        taken: list[Job] = []
        left, room = deque[Job](), self._batch
        n_best = self._jobs[0].n_best
        while self._jobs:
            job = self._jobs.popleft()
            if job.n_best == n_best and (len(job.texts) <= room or not taken):
                taken.append(job)
                room -= len(job.texts)
            else:
                left.append(job)
            if room <= 0:
                break
        self._jobs.extendleft(reversed(left))
        self.waiting -= sum(len(job.texts) for job in taken)
        return taken

    async def _run(self, jobs: list[Job]) -> None:
        results: Sequence[list[Answer] | Exception]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._pool, self._work, jobs)
        except Exception as error:  # of the parser: each request reports it, and the next batch is parsed
            results = [error] * len(jobs)
        for job, result in zip(jobs, results, strict=True):
            if job.done.done():
                continue
            if isinstance(result, Exception):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)
        self._free += 1
        self._start()
