"""Work for several devices at once, with results in the order of the input."""

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

AHEAD = 2  # jobs for each worker that are under way or waiting to be taken


def spread(
    jobs: Iterator[Item], workers: Sequence[Worker], work: Callable[[Worker, Item], Value]
) -> Generator[tuple[Item, Value], None, None]:
    """Each job with its outcome, in order; a job goes to the first worker that is free.

    Jobs are taken in the caller's thread, and with several workers up to ``AHEAD`` for each before their turn. Where a
    job or its taking raises a MasklineError, all before it come first, as with one worker. When the caller
    closes this early, what has begun is waited for and the rest dropped.
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
    """The jobs; where taking one raises, that waits in line behind them."""
    try:
        yield from jobs
    except MasklineError as error:
        failed: Future[tuple[Item, Value]] = Future()
        failed.set_exception(error)
        waiting.append(failed)
