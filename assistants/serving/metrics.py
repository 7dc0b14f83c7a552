"""What a server measures, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("framefill_requests", "Requests answered.", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "framefill_request_seconds", "From request to answer.", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self.utterances = Counter(
            "framefill_utterances", "Utterances parsed, by outcome.", ["bundle", "outcome"], registry=self.registry
        )
        self.batches = Histogram(
            "framefill_batch_utterances", "Utterances that were parsed together.", ["bundle"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256), registry=self.registry,
        )  # fmt: skip
        self.parsing = Histogram(
            "framefill_batch_seconds", "Time that a batch took.", ["bundle"], buckets=_SECONDS, registry=self.registry
        )
        self.reloads = Counter(
            "framefill_reloads", "Reloads of a bundle.", ["bundle", "outcome"], registry=self.registry
        )
        self._waiting = Gauge(
            "framefill_waiting_utterances", "Utterances in the queue.", ["bundle"], registry=self.registry
        )

    def watch(self, bundle: str, waiting: Callable[[], float]) -> None:
        """Reads the length of a bundle's queue whenever metrics are asked for."""
        self._waiting.labels(bundle).set_function(waiting)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
