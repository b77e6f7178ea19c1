"""One request from its bytes to its answer, in the event loop; what takes long is done by threads and workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from maskline.fetching.url_policy import FetchError, fetch
from maskline.serve import images, protocol
from maskline.serve.admission import InferenceResult, Queue, QueuedImage
from maskline.serve.coding import decompressed
from maskline.serve.metrics import Metrics
from maskline.serve.protocol import Wanted
from maskline.serve.refusal import RefusalError
from maskline.serve.settings import ServiceSettings
from maskline.serve.workers import Opener, Workers

Given = TypeVar("Given")
Made = TypeVar("Made")

MAX_BUFFERED_BODIES = 4  # requests of the largest size for which there is room until they are read
FETCHES = 16  # URLs that are fetched at once
THREADS = 2  # that read large requests, each of which is three times in memory then
INLINE = 1 << 16  # bytes of a request that is read sooner than a thread would be
SHORT = 1  # seconds after which to ask a service again that starts or ends


@dataclass(slots=True)
class Entry:
    """What is known of a request once it ends, for log and metrics.

    Attributes:
        stages: seconds by stage, see `Metrics`.
        instances: how many were found; None without a result.
        reason: why there is no result.
        held: bytes of it that have come and are not read yet.
    """

    log_id: str = field(default_factory=protocol.new_log_id)
    stages: dict[str, float] = field(default_factory=dict)
    instances: int | None = None
    reason: str | None = None
    held: int = 0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time of what is done here as a stage's."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Asked:
    """An image's file, or the URL of it, and what is wanted of it."""

    image: bytes | str
    wanted: Wanted


class Service:
    """What is shared by all requests.

    Attributes:
        draining: it is about to end; nothing new is begun.
        over: nor is anything waited for.
    """

    def __init__(self, openers: Sequence[Opener], settings: ServiceSettings) -> None:
        """For the event loop that runs; `workers.start` starts it."""
        self.settings, self.metrics = settings, Metrics()
        self._urls = settings.url_policy
        batch = settings.batch_size, settings.max_pixels
        self._queue = Queue(settings.queue_pixels, batch, settings.timeout, self.metrics)
        self.workers = Workers(openers, self._queue, self.metrics, timeout=settings.timeout)
        self.draining = False
        self._held = 0  # bytes of requests that come in or are read
        self._under_way: set[asyncio.Task[Any]] = set()
        self.over = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._fetches = asyncio.Semaphore(FETCHES)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="requests")  # the loop's own look up names

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self.workers.ready and not self.draining

    def check_ready(self) -> None:
        """Raise RefusalError (503) unless requests are answered."""
        if not self.ready:
            reason = "the service is ending" if self.draining else "no worker has its model open at the moment"
            raise RefusalError(503, f"{reason}; try again", retry_after=SHORT)

    async def drain(self) -> None:
        """Begin nothing new, and wait until what is under way is done; refuse it once the time for that is over."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), self.settings.drain)
        except asyncio.TimeoutError:
            self.over = True
            for task in self._under_way:
                task.cancel()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Keep track of the task that runs, which answers one request."""
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way.discard(task)
            if not self._under_way:
                self._idle.set()

    async def aside(self, step: Callable[[Given], Made], argument: Given, size: int) -> Made:
        """``step(argument)``, in a thread unless the argument is small."""
        if size <= INLINE:
            return step(argument)
        return await asyncio.get_running_loop().run_in_executor(self._threads, step, argument)

    @contextmanager
    def room_for(self, entry: Entry) -> Iterator[None]:
        """Count the bytes that are received here as held, until the end of the block."""
        try:
            yield
        finally:
            self._held -= entry.held
            entry.held = 0

    async def receive(
        self, chunks: AsyncIterator[bytes], length: int | None, entry: Entry, coding: str | None = None
    ) -> bytes:
        """The body of a request, within `room_for` its entry.

        Args:
            chunks: as they come.
            length: what the request says it is.
            coding: how it is compressed, of `coding.CODINGS`; it is decompressed within the same limits.

        Raises:
            RefusalError: 413 too large, 429 no room for it now, 408 it comes too slowly, 400 it can't be decompressed.
        """
        if length is not None and length > self.settings.max_body:
            raise self._too_large()
        self._check_room(length or 0)
        chunks = self._bounded(chunks)
        if coding is not None:
            chunks = self._bounded(decompressed(chunks, coding))
        with entry.timed("receive"):
            try:
                return await asyncio.wait_for(self._collect(chunks, entry), self.settings.body_timeout)
            except asyncio.TimeoutError:
                told = f"the request did not come within {self.settings.body_timeout:g} s"
                raise RefusalError(408, told) from None

    async def _bounded(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same, up to ``max_body`` bytes."""
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self.settings.max_body:
                raise self._too_large()
            yield chunk

    async def _collect(self, chunks: AsyncIterator[bytes], entry: Entry) -> bytes:
        parts: list[bytes] = []
        async for chunk in chunks:
            self._check_room(len(chunk))
            entry.held += len(chunk)
            self._held += len(chunk)
            parts.append(chunk)
        return b"".join(parts)

    def _check_room(self, size: int) -> None:
        if self._held + size > MAX_BUFFERED_BODIES * self.settings.max_body:
            raise RefusalError(429, "too many large requests at once", retry_after=self._queue.retry_after)

    def _too_large(self) -> RefusalError:
        told = f"the request is too large: this service takes up to {self.settings.max_body} bytes, decompressed"
        return RefusalError(413, told)

    async def read(self, body: bytes | str, entry: Entry) -> Asked:
        """What a request asks for. Raises RefusalError. Let go of the body then: it is larger than what is kept."""
        with entry.timed("parse"):
            parse = partial(protocol.parse, classes=self.workers.about["labels"])
            request = await self.aside(parse, body, len(body))
            entry.log_id = request.logId or entry.log_id
            wanted = Wanted.of(request, self.settings.visualize)
            if images.is_url(request.image):
                return Asked(request.image, wanted)
            return Asked(await self.aside(images.file_of, request.image, len(request.image)), wanted)

    async def answer(self, asked: Asked, entry: Entry) -> bytes:
        """The answer to a request, with its envelope. Raises RefusalError; what is cancelled leaves no trace."""
        self.check_ready()
        with self._counted():
            try:
                return await asyncio.wait_for(self._answer(asked, entry), self.settings.timeout)
            except asyncio.TimeoutError:
                raise RefusalError(504, f"no answer within {self.settings.timeout:g} s") from None
            except asyncio.CancelledError:
                if not self.over:
                    raise  # the client has gone
                raise RefusalError(503, "the service has ended before the answer was there") from None

    async def _answer(self, asked: Asked, entry: Entry) -> bytes:
        data = await self._fetched(asked.image, entry) if isinstance(asked.image, str) else asked.image
        with entry.timed("parse"):
            pixels = await self.aside(partial(images.pixels_claimed, most=self.settings.max_pixels), data, len(data))
        job = self._queue.admit(data, pixels, asked.wanted)
        outcome = await self._outcome(job)
        entry.stages |= outcome.stages
        entry.instances = outcome.instances
        return protocol.success(entry.log_id, outcome.result)

    async def _outcome(self, job: QueuedImage) -> InferenceResult:
        self.workers.dispatch()
        try:
            return await job.outcome
        finally:
            job.outcome.cancel()  # a client that has gone, a deadline: nobody waits any more

    async def _fetched(self, url: str, entry: Entry) -> bytes:
        with entry.timed("fetch"):
            async with self._fetches:
                try:
                    return await fetch(url, self._urls)
                except FetchError as error:
                    raise RefusalError.of_image(error.kind, str(error)) from None
