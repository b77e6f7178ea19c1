"""Worker processes: started, supplied with batches, supervised, and restarted if they die."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import pickle
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from maskline.errors import MasklineError, ParameterError
from maskline.runtime.onnxruntime_backend import PATIENT_VARIABLE
from maskline.serve import wire
from maskline.serve.admission import InferenceResult, Queue, QueuedImage
from maskline.serve.metrics import Metrics
from maskline.serve.refusal import RefusalError

if TYPE_CHECKING:
    from maskline.runtime.predictor import Predictor

#: Opens the model; called in a worker, so it must be picklable, such as a `functools.partial`.
Opener: TypeAlias = "Callable[[], Predictor]"

DEATHS = 2  # workers that may die on an image before it is rejected
ABANDONED_BATCH_TIMEOUT = 30.0  # seconds that a worker may continue with a batch that no client waits for
SHUTDOWN_TIMEOUT = 10.0  # seconds for workers to exit by themselves
LAST_MESSAGE_TIMEOUT = 1.0  # the same after the end of a worker's stream; most are dead by then
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a restart; doubled each time the model can't be opened

logger = logging.getLogger("maskline")


class StartError(MasklineError):
    """A worker can't open its model, so the service can't start."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)  # both, so that it can be pickled
        self.exit_code = exit_code

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(slots=True, eq=False)
class _Batch:
    jobs: list[QueuedImage]
    since: float
    alarm: asyncio.TimerHandle


@dataclass(slots=True, eq=False)
class _Worker:
    """A process that is ready for batches."""

    process: Process
    batches: dict[int, _Batch] = field(default_factory=dict)
    free_since: float = 0.0

    def send(self, message: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(message)


class Workers:
    """All workers of a service.

    Attributes:
        about: facts about the model from the first ready worker: ``model``, ``labels``, ``device``, ``backend``.
        first: done when the first worker is ready, or raises StartError.
    """

    def __init__(self, openers: Sequence[Opener], queue: Queue, metrics: Metrics, *, timeout: float):
        """Prepare, without starting anything.

        Args:
            openers: model factories, one per worker.
            timeout: seconds that clients wait for a result.
        """
        try:
            self._openers = [pickle.dumps(opener) for opener in openers]
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ParameterError(
                f"a model factory can't be pickled ({error}): use a picklable one, such as "
                "functools.partial(create_model, …)"
            ) from None
        self._queue, self._metrics = queue, metrics
        self._timeout = timeout
        self._ready: list[_Worker] = []
        self._numbers = itertools.count()
        self._keepers: list[asyncio.Task[None]] = []
        self._processes: set[Process] = set()
        self.about: dict[str, Any] = {}
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def ready(self) -> bool:
        """Whether any worker can take a batch."""
        return bool(self._ready)

    def start(self) -> None:
        """Start all workers, without waiting until they are ready."""
        self._keepers = [asyncio.create_task(self._keep(opener)) for opener in self._openers]

    async def stop(self, timeout: float) -> None:
        """Stop all workers, and kill those that have not exited after ``timeout`` seconds."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(_end(process, timeout) for process in self._processes))

    def dispatch(self) -> None:
        """Give queued jobs to idle workers.

        A worker's second batch, which has to wait, must be full; and an image that a worker died on gets its own batch,
        so that it can't affect others.
        """
        for worker in sorted(self._ready, key=lambda worker: len(worker.batches)):
            while len(self._queue) and len(worker.batches) < wire.AHEAD:
                suspected = self._queue.suspected or any(batch.jobs[0].deaths for batch in worker.batches.values())
                if worker.batches and (suspected or not self._queue.has_full_batch):
                    break
                self._hand_out(worker, self._queue.take())

    def _hand_out(self, worker: _Worker, jobs: list[QueuedImage]) -> None:
        loop, number = asyncio.get_running_loop(), next(self._numbers)
        now = loop.time()
        alarm = loop.call_later(self._timeout + ABANDONED_BATCH_TIMEOUT, self._kill_stuck, worker, number)
        worker.batches[number] = _Batch(jobs, now, alarm)
        for job in jobs:
            self._metrics.stage({"queue": now - job.since})
        self._metrics.batches.observe(len(jobs))
        head = {"batch": number, "jobs": [asdict(job.wanted) for job in jobs]}
        worker.send(wire.pack(head, [job.data for job in jobs]))

    def _kill_stuck(self, worker: _Worker, number: int) -> None:
        batch = worker.batches.get(number)
        if batch is not None and all(job.outcome.done() for job in batch.jobs):
            seconds = self._timeout + ABANDONED_BATCH_TIMEOUT
            logger.error("a worker has not responded for %.0f s: killing it", seconds)
            with suppress(ProcessLookupError):
                worker.process.kill()

    async def _keep(self, opener: bytes) -> None:
        """Keep one worker running."""
        pause = FIRST_PAUSE
        while True:
            was_ready = await self._live(opener)
            if self.first.done() and self.first.exception() is not None:
                return
            self._metrics.deaths.inc()
            pause = FIRST_PAUSE if was_ready else pause
            logger.error("a worker died: starting another in %.1f s", pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _live(self, opener: bytes) -> bool:
        """Run one worker from start to end. Returns whether it opened its model."""
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "maskline.serve.worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                limit=1 << 20,
                env={PATIENT_VARIABLE: "1", **os.environ},  # workers share the cores
                start_new_session=os.name == "posix",  # else Ctrl-C in a terminal would end it before the service
            )
        except OSError as error:  # too many processes or open files, or out of memory
            self._failed(wire.Message({"failed": f"can't start a process: {error.strerror}", "exit_code": 1}, []))
            return False
        self._processes.add(process)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(wire.pack({}, [opener]))
        message = await wire.receive(process.stdout)
        ready = False
        if message is None or "failed" in message.head:
            self._failed(message)
        else:
            ready = True
            await self._work(_Worker(process), process.stdout, message.head)
        await _end(process, LAST_MESSAGE_TIMEOUT)
        self._processes.discard(process)
        return ready

    def _failed(self, message: wire.Message | None) -> None:
        """Handle a worker that did not become ready: if none ever was, the service can't start."""
        reason = "a worker died while opening its model" if message is None else str(message.head["failed"])
        if not self.first.done():
            self.first.set_exception(StartError(reason, 1 if message is None else int(message.head["exit_code"])))
        elif self.first.exception() is None:  # or all have failed for the same reason
            logger.error("a worker can't open its model: %s", reason)

    async def _work(self, worker: _Worker, answers: asyncio.StreamReader, about: dict[str, Any]) -> None:
        self.about = self.about or about
        self._ready.append(worker)
        self._metrics.ready.set(len(self._ready))
        if not self.first.done():
            self.first.set_result(None)
        try:
            self.dispatch()
            while message := await wire.receive(answers):
                self._finish(worker, message)
                self.dispatch()
        except (KeyError, ValueError, TypeError):
            logger.exception("a worker sent an invalid message")
        finally:
            self._ready.remove(worker)
            self._metrics.ready.set(len(self._ready))
            self._rescue(worker)

    def _finish(self, worker: _Worker, message: wire.Message) -> None:
        """Deliver the results of a batch."""
        batch, now = worker.batches.pop(message.head["batch"]), asyncio.get_running_loop().time()
        batch.alarm.cancel()
        self._queue.update_pace((now - max(batch.since, worker.free_since)) / len(self._ready), batch.jobs)
        worker.free_since = now
        self._metrics.stage(message.head["stages"])
        for job, about, result in zip(batch.jobs, message.head["answers"], message.parts, strict=True):
            if job.outcome.done():
                continue
            if "status" in about:
                job.outcome.set_exception(RefusalError(about["status"], about["message"]))
            else:
                stages = {"queue": batch.since - job.since, **message.head["stages"]}
                job.outcome.set_result(InferenceResult(result, about["instances"], stages))

    def _rescue(self, worker: _Worker) -> None:
        """Requeue the images of a dead worker, each alone, so that one that kills workers is isolated."""
        jobs = [job for batch in worker.batches.values() for job in batch.jobs]
        for batch in worker.batches.values():
            batch.alarm.cancel()
        worker.batches.clear()
        for job in jobs:
            job.deaths += 1
            if job.deaths >= DEATHS and not job.outcome.done():
                job.outcome.set_exception(RefusalError(500, "Internal server error"))
        self._queue.put_back(jobs)
        self.dispatch()


async def _end(process: Process, timeout: float) -> None:
    """Let a worker exit by itself within ``timeout`` seconds, else kill it."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), timeout)
    except asyncio.TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
