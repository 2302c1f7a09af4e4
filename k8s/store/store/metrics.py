"""What a replica tells Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

if TYPE_CHECKING:
    from store.node import Node

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """A registry of its own."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, node: Node) -> None:
        self._registry = registry = CollectorRegistry()
        self._answers = Counter("store_requests", "Requests of clients.", ["method", "status"], registry=registry)
        self._seconds = Histogram(
            "store_request_duration_seconds", "Until the answer.", ["method"], buckets=BUCKETS, registry=registry
        )
        log = node.replica.log
        gauges = {
            "store_leader": ("1 while this replica takes writes.", lambda: node.serves),
            "store_sequence": ("The last entry on the disk.", lambda: log.last.sequence),
            "store_committed_sequence": ("The last entry known to be on a majority of disks.", lambda: log.committed),
            "store_promised_token": ("The greatest fencing token seen.", lambda: log.promised),
        }
        for name, (about, measured) in gauges.items():
            Gauge(name, about, registry=registry).set_function(measured)

    def answered(self, method: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._answers.labels(method, str(status)).inc()
        self._seconds.labels(method).observe(seconds)

    def exposition(self) -> bytes:
        """Return them all as text."""
        return generate_latest(self._registry)
