"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What one server counts and times.

    Args:
        queue_length: Pictures that wait, asked whenever the figures are.
    """

    def __init__(self, queue_length: Callable[[], float]) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "paddlevit_requests", "Requests to /predict by status of the answer.", ["status"], registry=registry
        )
        self._seconds = Histogram(
            "paddlevit_request_seconds",
            "Seconds from a request to its answer, of requests that got predictions.",
            buckets=SECONDS,
            registry=registry,
        )
        self._pictures = Histogram(
            "paddlevit_batch_pictures", "Pictures computed together.", buckets=PICTURES, registry=registry
        )
        queue = Gauge("paddlevit_queue_length", "Pictures that wait to be computed.", registry=registry)
        queue.set_function(queue_length)

    def answered(self, status: int, seconds: float) -> None:
        """Note a request to /predict."""
        self._requests.labels(str(status)).inc()
        if status == 200:
            self._seconds.observe(seconds)

    def computed(self, pictures: int) -> None:
        """Note a batch."""
        self._pictures.observe(pictures)

    def text(self) -> str:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry).decode()
