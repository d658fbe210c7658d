"""Counters of the server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

__all__ = ["Metrics"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class _Load(Collector):
    """Gauges read from the engine when they are asked for."""

    def __init__(self, load: Callable[[], Mapping[str, int]]) -> None:
        self._load = load

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, value in self._load().items():
            yield GaugeMetricFamily(f"hydraopt_{name}", name.replace("_", " "), value=value)


class Metrics:
    """Counters of one server, in a registry of its own. model labels are names that exist."""

    def __init__(self, load: Callable[[], Mapping[str, int]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Load(load))
        self.requests = Counter(
            "hydraopt_requests", "answered", ["model", "end"], registry=self._registry
        )
        self.tokens = Counter(
            "hydraopt_tokens", "read or written", ["model", "kind"], registry=self._registry
        )
        self.seconds = Histogram(
            "hydraopt_request_seconds",
            "from arrival to end",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.first = Histogram(
            "hydraopt_first_text_seconds",
            "from arrival to the first text",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return the metrics in the exposition format."""
        return generate_latest(self._registry)
