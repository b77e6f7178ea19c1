"""Parallel work on several devices, with results in input order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from maskline.errors import MasklineError

Item = TypeVar("Item")
Worker = TypeVar("Worker")
Value = TypeVar("Value")

AHEAD = 2  # jobs per worker that are running or queued


def map_ordered(
    jobs: Iterator[Item], workers: Sequence[Worker], work: Callable[[Worker, Item], Value]
) -> Generator[tuple[Item, Value], None, None]:
    """Yield each job with its result, in order; a job goes to the first idle worker.

    Jobs are taken from the iterator in the caller's thread, with several workers up to ``AHEAD`` per worker in advance.
    If a job, or taking one, raises a MasklineError, all results before it are yielded first, as with one worker. When
    the generator is closed early, running jobs are awaited and the others dropped.
    """
    if len(workers) == 1:
        for job in jobs:
            yield job, work(workers[0], job)
        return
    idle: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def done(job: Item) -> tuple[Item, Value]:
        worker = idle.get()
        try:
            return job, work(worker, job)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="maskline")
    waiting: deque[Future[tuple[Item, Value]]] = deque()
    try:
        for job in _until_fault(jobs, waiting):
            waiting.append(pool.submit(done, job))
            while waiting and (waiting[0].done() or len(waiting) == AHEAD * len(workers)):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _until_fault(jobs: Iterator[Item], waiting: deque[Future[tuple[Item, Value]]]) -> Iterator[Item]:
    """Yield the jobs; an error raised while taking one is queued behind them."""
    try:
        yield from jobs
    except MasklineError as error:
        failed: Future[tuple[Item, Value]] = Future()
        failed.set_exception(error)
        waiting.append(failed)
