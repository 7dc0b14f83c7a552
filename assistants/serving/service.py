"""The bundles of a server: parsed in batches, reloaded in place. Protocols (HTTP, Wyoming) only translate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from assistants import runtime
from assistants.answers import Answer, answer_each, least_probability
from assistants.bundle import bundle_name, made_by_anyone
from assistants.onnx_backend import BundleParser
from assistants.serving.batching import Batcher, Job
from assistants.serving.limits import Limits, RefusedError, check_texts
from assistants.serving.metrics import Metrics
from assistants.shapes.names import Names
from frames.errors import FramefillError, UsageError, located

log = structlog.get_logger("framefill")


class ServedBundle:
    """A bundle, its queue, and the parser that is in use at the moment.

    Args:
        name: by which clients know it.
        path: folder or zip.
        precision: see :func:`assistants.runtime.load`.
        threads: batches parsed side by side.
        limits: of the server.
        metrics: of the server.
        threshold: see :func:`assistants.answers.least_probability`.

    Raises:
        BundleError: see :meth:`load`.
        UsageError: see :meth:`load`.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        precision: str | None,
        threads: int,
        limits: Limits,
        metrics: Metrics,
        threshold: float | None,
    ) -> None:
        self.name, self.path = name, path
        self._precision, self._metrics, self._threshold = precision, metrics, threshold
        self.parser = self.load()
        self.batcher = Batcher(self._work, limits.batch, limits.waiting, threads)
        metrics.watch(self.name, lambda: self.batcher.waiting)

    def load(self) -> BundleParser:
        """The parser as it is on disk now, ready to answer.

        Raises:
            BundleError: see :func:`assistants.runtime.load`.
            UsageError: see :func:`assistants.answers.least_probability`.
        """
        parser = runtime.load(self.path, self._precision)
        with made_by_anyone(self.path):
            parser.warm_up()
        with located(str(self.path)):
            least_probability(parser, self._threshold)
        return parser

    @property
    def threshold(self) -> float | None:
        """Least probability of an answer that is acted on."""
        return least_probability(self.parser, self._threshold)

    def _work(self, jobs: Sequence[Job]) -> list[list[Answer] | Exception]:
        """Parses jobs in a thread. An utterance that cannot be parsed fails its own job alone."""
        parser = self.parser  # the same for the whole batch, if a reload comes between
        began = time.perf_counter()
        found = iter(answer_each(parser, [text for job in jobs for text in job.texts], jobs[0].n_best, self._threshold))
        self._metrics.parsing.labels(self.name).observe(time.perf_counter() - began)
        self._metrics.batches.labels(self.name).observe(sum(len(job.texts) for job in jobs))
        return [self._result([next(found) for _ in job.texts]) for job in jobs]

    def _result(self, found: Sequence[Answer | UsageError]) -> list[Answer] | UsageError:
        """The answers of a job, or the error of its first utterance that cannot be parsed."""
        answers: list[Answer] = []
        for place, one in enumerate(found):
            if isinstance(one, UsageError):
                return one.at(f"texts[{place}]") if len(found) > 1 else one
            answers.append(one)
        for one in answers:
            self._metrics.utterances.labels(self.name, "abstained" if one.abstained else "answered").inc()
        return answers


class Service:
    """All bundles of a server.

    Args:
        paths: of bundles, each alone or with the name by which clients know it; the first is the default.
        limits: of the server.
        names: the assistant's, for the shapes that have them.
        precision: see :func:`assistants.runtime.load`.
        threads: batches of a bundle that are parsed side by side.
        threshold: see :func:`assistants.answers.least_probability`; None takes each bundle's own.

    Raises:
        BundleError: a bundle cannot be loaded.
        UsageError: two bundles have one name, a threshold is given for one that is not calibrated, or ``names`` has labels that no bundle knows.
    """

    def __init__(
        self,
        paths: Sequence[Path | tuple[str, Path]],
        limits: Limits | None = None,
        names: Names | None = None,
        precision: str | None = None,
        threads: int = 1,
        threshold: float | None = None,
    ) -> None:
        self.limits, self.names, self.metrics = limits or Limits(), names or Names(), Metrics()
        self.draining = False
        self._reloading = asyncio.Lock()
        self.bundles: dict[str, ServedBundle] = {}
        for given in paths:
            name, path = given if isinstance(given, tuple) else (bundle_name(given), given)
            bundle = ServedBundle(name, path, precision, threads, self.limits, self.metrics, threshold)
            if bundle.name in self.bundles:
                raise UsageError(
                    "E533",
                    f"two bundles are named {bundle.name!r}.",
                    where=str(path),
                    remedy="Rename one of the folders.",
                )
            self.bundles[bundle.name] = bundle
            if bundle.threshold is None:
                log.warning("bundle is not calibrated, so nothing is refused", bundle=bundle.name)
        self.names.check(bundle.parser.ontology for bundle in self.bundles.values())

    def bundle(self, name: str | None = None) -> ServedBundle:
        """A bundle by its name, the default for None.

        Raises:
            RefusedError: there is none.
        """
        found = self.bundles.get(name) if name is not None else next(iter(self.bundles.values()))
        if found is None:
            raise RefusedError(
                "E529", f"no bundle is named {str(name)[:80]!r}.", remedy=f"Served are {', '.join(self.bundles)}."
            )
        return found

    async def parse(self, texts: list[str], n_best: int = 1, bundle: str | None = None) -> list[Answer]:
        """The answers to utterances, in their order.

        Raises:
            RefusedError: over a limit, or no such bundle.
            UsageError: an utterance cannot be parsed.
        """
        check_texts(texts, self.limits)
        chosen = self.bundle(bundle)
        if not texts:
            return []
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await chosen.batcher.parse(texts, n_best)
        except TimeoutError:
            raise RefusedError(
                "E526", f"no answer within {self.limits.timeout:g} seconds.", remedy="Send less, or try again later."
            ) from None

    async def reload(self) -> dict[str, str]:
        """Loads every bundle anew while the present ones go on answering; a bundle that cannot be loaded stays as it is.

        Returns:
            ``reloaded`` or the error, by the bundle's name.
        """
        outcome = {}
        async with self._reloading:
            for name, bundle in self.bundles.items():
                try:
                    parser = await asyncio.to_thread(bundle.load)
                    others = (other.parser.ontology for other in self.bundles.values() if other is not bundle)
                    self.names.check([parser.ontology, *others])
                except FramefillError as error:
                    log.error("bundle was not reloaded", bundle=name, error=str(error))
                    outcome[name] = str(error)
                else:
                    bundle.parser = parser
                    log.info("bundle reloaded", bundle=name)
                    outcome[name] = "reloaded"
                self.metrics.reloads.labels(name, "reloaded" if outcome[name] == "reloaded" else "failed").inc()
        return outcome

    async def close(self) -> None:
        """Waits until all that was accepted is answered."""
        for bundle in self.bundles.values():
            await bundle.batcher.close()
