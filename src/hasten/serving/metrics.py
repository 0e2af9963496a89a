"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 120)
ROWS = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "hasten_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self.pictures = Counter(
            "hasten_pictures", "Pictures made.", ["model", "plan"], registry=registry
        )
        self.seconds = Histogram(
            "hasten_request_seconds",
            "From a request's coming to its pictures.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.rows = Histogram(
            "hasten_batch_rows", "Pictures in a network call.", buckets=ROWS, registry=registry
        )
        self.evaluation = Histogram(
            "hasten_evaluation_seconds", "A network call.", buckets=SECONDS, registry=registry
        )
        self.waiting = Gauge("hasten_waiting", "Requests not done.", registry=registry)

    def evaluated(self, rows: int, seconds: float) -> None:
        """Note a network call."""
        self.rows.observe(rows)
        self.evaluation.observe(seconds)

    def refused(self, status: int) -> None:
        """Note a request that did not reach a route."""
        self.requests.labels("refused", str(status)).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
