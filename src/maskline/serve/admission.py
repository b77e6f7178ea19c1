"""The queue between requests and workers: bounded, in order, and honest about how long it takes."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from maskline.serve.metrics import Metrics
from maskline.serve.protocol import Wanted
from maskline.serve.refusal import RefusalError

LEAST_COST = 1_000_000  # pixels: what a run of the network costs, however small the image is
BYTES_OF_PIXEL = 3  # a file that has more for each of its pixels costs as one that has so many
LONGEST_WAIT = 60  # seconds that a client is told to wait
_RECENT = 0.2  # weight of the newest batch in the pace


class InferenceResult(NamedTuple):
    """What a worker made of a job."""

    result: bytes
    instances: int
    stages: dict[str, float]


@dataclass(slots=True, eq=False)
class QueuedImage:
    """An image that waits or is worked on.

    Attributes:
        data: its file.
        cost: in pixels.
        outcome: what becomes of it: a result, or the exception RefusalError. Done also where nobody waits any more.
        since: when it came, in the event loop's time.
        deaths: how many workers have died on it.
    """

    data: bytes
    wanted: Wanted
    cost: int
    outcome: asyncio.Future[InferenceResult]
    since: float
    deaths: int = 0


class Queue:
    """Jobs in the order in which they came.

    Args:
        most: pixels of the jobs that wait or are worked on.
        batch: jobs, and pixels, that a worker gets at once. A job with more pixels comes alone.
        patience: seconds; a job that would wait longer is refused at once.
    """

    def __init__(self, most: int, batch: tuple[int, int], patience: float, metrics: Metrics) -> None:
        self._most, self._batch, self._patience, self._metrics = most, batch, patience, metrics
        self._waiting: deque[QueuedImage] = deque()
        self._pixels = 0
        self._pace: float | None = None  # seconds a pixel takes, of all workers together

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_full_batch(self) -> bool:
        """Whether a batch taken now would be as large as they get."""
        return len(self._waiting) >= self._batch[0] or sum(job.cost for job in self._waiting) >= self._batch[1]

    @property
    def suspected(self) -> bool:
        """Whether a worker has died on the next job."""
        return bool(self._waiting) and self._waiting[0].deaths > 0

    @property
    def expected(self) -> float | None:
        """Seconds until all that is here now is done; None before the first batch is."""
        return None if self._pace is None else self._pixels * self._pace

    @property
    def retry_after(self) -> int:
        """The same, as told to a client."""
        return min(max(math.ceil(self.expected or 1.0), 1), LONGEST_WAIT)

    def admit(self, data: bytes, pixels: int, wanted: Wanted) -> QueuedImage:
        """A job at the end of the queue. Raises RefusalError (429) where there is no room, or no hope of an answer."""
        cost = min(max(pixels, LEAST_COST, len(data) // BYTES_OF_PIXEL), self._most)
        if self._pixels + cost > self._most or (self.expected or 0.0) > self._patience:
            raise RefusalError(429, "too many requests: the queue is full", retry_after=self.retry_after)
        loop = asyncio.get_running_loop()
        job = QueuedImage(data, wanted, cost, loop.create_future(), loop.time())
        job.outcome.add_done_callback(lambda _: self._leave(job))
        self._waiting.append(job)
        self._pixels += cost
        self._tell()
        return job

    def take(self) -> list[QueuedImage]:
        """The next batch; none if nothing waits. A job that a worker has died on comes alone."""
        taken: list[QueuedImage] = []
        (jobs, room), alone = self._batch, self.suspected
        while self._waiting and len(taken) < (1 if alone else jobs):
            job = self._waiting[0]
            if taken and (job.deaths or job.cost > room):
                break
            room -= job.cost
            taken.append(self._waiting.popleft())
        self._tell()
        return taken

    def put_back(self, jobs: Sequence[QueuedImage]) -> None:
        """Jobs whose worker has died, to the front, but for those that nobody waits for any more."""
        self._waiting.extendleft(job for job in reversed(jobs) if not job.outcome.done())
        self._tell()

    def learn(self, seconds: float, jobs: Sequence[QueuedImage]) -> None:
        """That so many seconds, of all workers together, were needed for these jobs."""
        pace = seconds / sum(job.cost for job in jobs)
        self._pace = pace if self._pace is None else (1 - _RECENT) * self._pace + _RECENT * pace

    def _leave(self, job: QueuedImage) -> None:
        self._pixels -= job.cost
        if job in self._waiting:
            self._waiting.remove(job)
        self._tell()

    def _tell(self) -> None:
        self._metrics.waiting.set(len(self._waiting))
        self._metrics.pixels.set(self._pixels)
