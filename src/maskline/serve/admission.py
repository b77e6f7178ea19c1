"""The queue between requests and workers: bounded, first in, first out, with an estimate of the waiting time."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from maskline.serve.metrics import Metrics
from maskline.serve.protocol import PredictOptions
from maskline.serve.refusal import RefusalError

LEAST_COST = 1_000_000  # pixels: cost of a run of the network, however small the image
BYTES_PER_PIXEL = 3  # a file with more bytes than this per pixel is charged by its size
LONGEST_WAIT = 60  # seconds, largest Retry-After
_RECENT = 0.2  # weight of the newest batch in the average pace


class InferenceResult(NamedTuple):
    """Result of a job, from a worker."""

    result: bytes
    instances: int
    stages: dict[str, float]


@dataclass(slots=True, eq=False)
class QueuedImage:
    """An image that is queued or being processed.

    Attributes:
        data: the image file.
        cost: in pixels.
        outcome: result, or RefusalError as the exception; also done (cancelled) once the client no longer waits.
        since: time of arrival, by the event loop's clock.
        deaths: number of workers that died while processing it.
    """

    data: bytes
    wanted: PredictOptions
    cost: int
    outcome: asyncio.Future[InferenceResult]
    since: float
    deaths: int = 0


class Queue:
    """Jobs in order of arrival.

    Args:
        most: maximum pixels of the jobs that are queued or being processed.
        batch: maximum jobs and pixels per batch. A job with more pixels gets its own batch.
        max_wait: seconds; a job that would wait longer is rejected at once.
    """

    def __init__(self, most: int, batch: tuple[int, int], max_wait: float, metrics: Metrics) -> None:
        self._most, self._batch, self._max_wait, self._metrics = most, batch, max_wait, metrics
        self._waiting: deque[QueuedImage] = deque()
        self._pixels = 0
        self._pace: float | None = None  # seconds per pixel, of all workers together

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_full_batch(self) -> bool:
        """Whether a batch taken now would have the maximum size."""
        return len(self._waiting) >= self._batch[0] or sum(job.cost for job in self._waiting) >= self._batch[1]

    @property
    def suspected(self) -> bool:
        """Whether a worker died while processing the next job."""
        return bool(self._waiting) and self._waiting[0].deaths > 0

    @property
    def expected(self) -> float | None:
        """Estimated seconds until all current jobs are done; None before the first batch is."""
        return None if self._pace is None else self._pixels * self._pace

    @property
    def retry_after(self) -> int:
        """The same as an integer for the ``Retry-After`` header."""
        return min(max(math.ceil(self.expected or 1.0), 1), LONGEST_WAIT)

    def admit(self, data: bytes, pixels: int, wanted: PredictOptions) -> QueuedImage:
        """Append a job. Raises RefusalError (429) if the queue is full or the wait would exceed the maximum."""
        cost = min(max(pixels, LEAST_COST, len(data) // BYTES_PER_PIXEL), self._most)
        if self._pixels + cost > self._most or (self.expected or 0.0) > self._max_wait:
            raise RefusalError(429, "too many requests: the queue is full", retry_after=self.retry_after)
        loop = asyncio.get_running_loop()
        job = QueuedImage(data, wanted, cost, loop.create_future(), loop.time())
        job.outcome.add_done_callback(lambda _: self._leave(job))
        self._waiting.append(job)
        self._pixels += cost
        self._update_gauges()
        return job

    def take(self) -> list[QueuedImage]:
        """Take the next batch; empty if nothing is queued. A job that a worker died on gets its own batch."""
        taken: list[QueuedImage] = []
        (jobs, room), alone = self._batch, self.suspected
        while self._waiting and len(taken) < (1 if alone else jobs):
            job = self._waiting[0]
            if taken and (job.deaths or job.cost > room):
                break
            room -= job.cost
            taken.append(self._waiting.popleft())
        self._update_gauges()
        return taken

    def put_back(self, jobs: Sequence[QueuedImage]) -> None:
        """Return jobs whose worker died to the front of the queue, except those whose client no longer waits."""
        self._waiting.extendleft(job for job in reversed(jobs) if not job.outcome.done())
        self._update_gauges()

    def update_pace(self, seconds: float, jobs: Sequence[QueuedImage]) -> None:
        """Update the average pace: all workers together took ``seconds`` for these jobs."""
        pace = seconds / sum(job.cost for job in jobs)
        self._pace = pace if self._pace is None else (1 - _RECENT) * self._pace + _RECENT * pace

    def _leave(self, job: QueuedImage) -> None:
        self._pixels -= job.cost
        if job in self._waiting:
            self._waiting.remove(job)
        self._update_gauges()

    def _update_gauges(self) -> None:
        self._metrics.waiting.set(len(self._waiting))
        self._metrics.pixels.set(self._pixels)
