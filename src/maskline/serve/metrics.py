"""Prometheus metrics of the service."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Metrics of the service, in a separate registry. Not thread-safe: for use in the event loop.

    Stages of a request are ``receive`` (its bytes), ``parse`` (JSON, Base64, image header), ``fetch`` (a URL),
    ``queue`` (until a worker takes it), ``decode``, ``predict``, ``encode`` (of its batch), and ``total``.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "maskline_requests", "Prediction requests, by HTTP status.", ["status"], registry=self.registry
        )
        self.rejections = Counter(
            "maskline_rejections", "Requests without a result, by reason.", ["reason"], registry=self.registry
        )
        self.stages = Histogram(
            "maskline_stage_seconds", "Seconds by stage.", ["stage"], buckets=_SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            "maskline_batch_size", "Images per run of the network.", buckets=_BATCHES, registry=self.registry
        )
        self.waiting = Gauge("maskline_queue_requests", "Requests waiting for a worker.", registry=self.registry)
        self.pixels = Gauge("maskline_queue_pixels", "Pixels queued or being processed.", registry=self.registry)
        self.ready = Gauge("maskline_workers_ready", "Workers with an open model.", registry=self.registry)
        self.deaths = Counter("maskline_worker_deaths", "Workers that died unexpectedly.", registry=self.registry)
        self.instances = Counter("maskline_instances", "Instances found.", registry=self.registry)

    def stage(self, seconds: Mapping[str, float]) -> None:
        """Record the durations of stages."""
        for stage, value in seconds.items():
            self.stages.labels(stage).observe(value)

    def text(self) -> bytes:
        """Render in Prometheus' text format."""
        return generate_latest(self.registry)
