"""What a service tells Prometheus of itself."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The service's own numbers, in a registry of their own. Not safe between threads: for the event loop.

    Stages of a request are ``receive`` (its bytes), ``parse`` (JSON, Base64, an image's header), ``fetch`` (a URL),
    ``queue`` (until a worker has it), ``decode``, ``predict``, ``encode`` (of its batch), and ``total``.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "maskline_requests", "Requests for predictions, by status of HTTP.", ["status"], registry=self.registry
        )
        self.rejections = Counter(
            "maskline_rejections", "Requests without a result, by reason.", ["reason"], registry=self.registry
        )
        self.stages = Histogram(
            "maskline_stage_seconds", "Seconds by stage.", ["stage"], buckets=_SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            "maskline_batch_size", "Images in a run of the network.", buckets=_BATCHES, registry=self.registry
        )
        self.waiting = Gauge("maskline_queue_requests", "Requests that wait for a worker.", registry=self.registry)
        self.pixels = Gauge("maskline_queue_pixels", "Pixels that wait or are worked on.", registry=self.registry)
        self.ready = Gauge("maskline_workers_ready", "Workers that have their model open.", registry=self.registry)
        self.deaths = Counter("maskline_worker_deaths", "Workers that ended unasked.", registry=self.registry)
        self.instances = Counter("maskline_instances", "Instances found.", registry=self.registry)

    def stage(self, seconds: Mapping[str, float]) -> None:
        """Add what stages took."""
        for stage, value in seconds.items():
            self.stages.labels(stage).observe(value)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
