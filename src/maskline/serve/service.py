"""Processing of a request from its bytes to the response, in the event loop; slow steps run in threads and workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from maskline.fetching.url_policy import FetchError, fetch_url
from maskline.serve import images, protocol
from maskline.serve.admission import InferenceResult, Queue, QueuedImage
from maskline.serve.coding import decompressed
from maskline.serve.metrics import Metrics
from maskline.serve.protocol import PredictOptions
from maskline.serve.refusal import RefusalError
from maskline.serve.settings import ServiceSettings
from maskline.serve.workers import Opener, Workers

Given = TypeVar("Given")
Made = TypeVar("Made")

MAX_BUFFERED_BODIES = 4  # requests of maximum size that fit into the buffer for unparsed bodies
FETCHES = 16  # concurrent downloads of URLs
THREADS = 2  # for parsing large requests, each of which then occupies three times its size
INLINE = 1 << 16  # bytes up to which a request is parsed without a thread, which is faster
SHORT = 1  # seconds, Retry-After of a service that is starting or stopping


@dataclass(slots=True)
class Entry:
    """Record of a request for log and metrics.

    Attributes:
        stages: seconds by stage, see `Metrics`.
        instances: number of instances; None without a result.
        reason: why there is no result.
        held: bytes received and not yet parsed.
    """

    log_id: str = field(default_factory=protocol.new_log_id)
    stages: dict[str, float] = field(default_factory=dict)
    instances: int | None = None
    reason: str | None = None
    held: int = 0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent in the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """An image, as a file or a URL, and the options of its request."""

    image: bytes | str
    wanted: PredictOptions


class Service:
    """State shared by all requests.

    Attributes:
        draining: the service is stopping and accepts no new requests.
        drain_timed_out: pending requests have been cancelled.
    """

    def __init__(self, openers: Sequence[Opener], settings: ServiceSettings) -> None:
        """Set up in the running event loop; `workers.start` starts the workers."""
        self.settings, self.metrics = settings, Metrics()
        self._urls = settings.url_policy
        batch = settings.batch_size, settings.max_pixels
        self._queue = Queue(settings.queue_pixels, batch, settings.timeout, self.metrics)
        self.workers = Workers(openers, self._queue, self.metrics, timeout=settings.timeout)
        self.draining = False
        self._held = 0  # bytes of requests being received or parsed
        self._under_way: set[asyncio.Task[Any]] = set()
        self.drain_timed_out = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._fetches = asyncio.Semaphore(FETCHES)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="requests")  # the loop's own resolve names

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self.workers.ready and not self.draining

    def check_ready(self) -> None:
        """Raise RefusalError (503) unless requests are accepted."""
        if not self.ready:
            reason = "the service is stopping" if self.draining else "no worker is ready at the moment"
            raise RefusalError(503, f"{reason}; try again", retry_after=SHORT)

    async def drain(self) -> None:
        """Accept no new requests and wait for pending ones; cancel those that exceed the drain timeout."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), self.settings.drain)
        except asyncio.TimeoutError:
            self.drain_timed_out = True
            for task in self._under_way:
                task.cancel()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Track the current task, which processes one request."""
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

    async def run_in_thread(self, step: Callable[[Given], Made], argument: Given, size: int) -> Made:
        """Call ``step(argument)``, in a thread unless ``size``, in bytes, is small."""
        if size <= INLINE:
            return step(argument)
        return await asyncio.get_running_loop().run_in_executor(self._threads, step, argument)

    @contextmanager
    def room_for(self, entry: Entry) -> Iterator[None]:
        """Count the bytes received in the block as held, until its end."""
        try:
            yield
        finally:
            self._held -= entry.held
            entry.held = 0

    async def receive(
        self, chunks: AsyncIterator[bytes], length: int | None, entry: Entry, coding: str | None = None
    ) -> bytes:
        """Receive the body of a request, within `room_for` its entry.

        Args:
            chunks: the stream.
            length: Content-Length, if known.
            coding: its compression, one of `coding.CODINGS`; the limits apply to the decompressed size as well.

        Raises:
            RefusalError: 413 too large, 429 no room at the moment, 408 too slow, 400 can't be decompressed.
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
                reason = f"the request was not received within {self.settings.body_timeout:g} s"
                raise RefusalError(408, reason) from None

    async def _bounded(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass chunks through, up to ``max_body`` bytes in total."""
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
            raise RefusalError(429, "too many large requests", retry_after=self._queue.retry_after)

    def _too_large(self) -> RefusalError:
        reason = f"the request is too large: this service accepts up to {self.settings.max_body} bytes, decompressed"
        return RefusalError(413, reason)

    async def parse(self, body: bytes | str, entry: Entry) -> ParsedRequest:
        """Parse a request. Raises RefusalError. Release the body afterwards: it is larger than the result."""
        with entry.timed("parse"):
            parse = partial(protocol.parse, classes=self.workers.about["labels"])
            request = await self.run_in_thread(parse, body, len(body))
            entry.log_id = request.logId or entry.log_id
            wanted = PredictOptions.of(request, self.settings.visualize)
            if images.is_url(request.image):
                return ParsedRequest(request.image, wanted)
            return ParsedRequest(await self.run_in_thread(images.file_of, request.image, len(request.image)), wanted)

    async def answer(self, asked: ParsedRequest, entry: Entry) -> bytes:
        """Process a request and return the response body. Raises RefusalError; cancellation leaves no trace."""
        self.check_ready()
        with self._counted():
            try:
                return await asyncio.wait_for(self._answer(asked, entry), self.settings.timeout)
            except asyncio.TimeoutError:
                raise RefusalError(504, f"no result within {self.settings.timeout:g} s") from None
            except asyncio.CancelledError:
                if not self.drain_timed_out:
                    raise  # the client disconnected
                raise RefusalError(503, "the service stopped before the result was ready") from None

    async def _answer(self, asked: ParsedRequest, entry: Entry) -> bytes:
        data = await self._fetched(asked.image, entry) if isinstance(asked.image, str) else asked.image
        with entry.timed("parse"):
            claimed = partial(images.pixels_claimed, most=self.settings.max_pixels)
            pixels = await self.run_in_thread(claimed, data, len(data))
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
            job.outcome.cancel()  # the client disconnected or the deadline passed: the result is no longer needed

    async def _fetched(self, url: str, entry: Entry) -> bytes:
        with entry.timed("fetch"):
            async with self._fetches:
                try:
                    return await fetch_url(url, self._urls)
                except FetchError as error:
                    raise RefusalError.of_image(error.kind, str(error)) from None
