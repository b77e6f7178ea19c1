"""The queue: bounded, in order, honest about time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from maskline.serve.admission import LEAST_COST, InferenceResult, Queue, QueuedImage
from maskline.serve.metrics import Metrics
from maskline.serve.protocol import PredictOptions
from maskline.serve.refusal import RefusalError

WANTED = PredictOptions(None, False, "rle", "box")
MP = 1_000_000


def run(
    test: Callable[[Queue], Awaitable[None]], *, most: int = 10 * MP, batch: int = 4, max_wait: float = 60.0
) -> None:
    async def inside() -> None:
        await test(Queue(most, (batch, 9 * MP), max_wait, Metrics()))

    asyncio.run(inside())


def refusal(queue: Queue, pixels: int, data: bytes = b"") -> RefusalError:
    with pytest.raises(RefusalError) as caught:
        queue.admit(data, pixels, WANTED)
    assert caught.value.status == 429 and caught.value.retry_after is not None
    return caught.value


def test_pixels_are_counted_until_the_outcome() -> None:
    """B47: full is full, whether jobs wait or are worked on; who is done or gone makes room at once."""

    async def test(queue: Queue) -> None:
        first, second = queue.admit(b"", 6 * MP, WANTED), queue.admit(b"", 3 * MP, WANTED)
        refusal(queue, 2 * MP)
        third = queue.admit(b"", 1 * MP, WANTED)
        assert queue.take() == [first, second] and len(queue) == 1  # with the third it would have too many pixels
        refusal(queue, 1)
        first.outcome.set_result(InferenceResult(b"", 0, {}))
        await asyncio.sleep(0)
        queue.admit(b"", 6 * MP, WANTED)
        refusal(queue, 1)
        third.outcome.cancel()
        await asyncio.sleep(0)
        assert len(queue) == 1
        queue.admit(b"", 1, WANTED)

    run(test)


def test_small_images_and_large_files_have_their_price() -> None:
    async def test(queue: Queue) -> None:
        for _ in range(10 * MP // LEAST_COST):
            queue.admit(b"", 1, WANTED)
        refusal(queue, 1)

    async def files(queue: Queue) -> None:
        queue.admit(bytes(27 * MP), 1, WANTED)
        refusal(queue, 2 * MP)

    run(test)
    run(files)


def test_the_largest_has_a_place_of_its_own() -> None:
    async def test(queue: Queue) -> None:
        queue.admit(b"", 99 * MP, WANTED)
        refusal(queue, 1)

    run(test)


def test_the_time_is_estimated_from_measurements() -> None:
    async def test(queue: Queue) -> None:
        job = queue.admit(b"", 2 * MP, WANTED)
        assert queue.expected is None and refusal(queue, 9 * MP).retry_after == 1
        queue.update_pace(6.0, [job])  # three seconds a million
        assert queue.expected == pytest.approx(6)
        queue.admit(b"", 8 * MP, WANTED)
        assert refusal(queue, 1).retry_after == 30
        for _ in range(50):
            queue.update_pace(60.0, [job])
        assert refusal(queue, 1).retry_after == 60

    async def hopeless(queue: Queue) -> None:
        job = queue.admit(b"", 2 * MP, WANTED)
        queue.update_pace(6.0, [job])
        refusal(queue, 1)  # it would wait for longer than five seconds
        job.outcome.cancel()
        await asyncio.sleep(0)
        queue.admit(b"", 1, WANTED)

    run(test)
    run(hopeless, max_wait=5.0)


def test_what_a_worker_has_died_on_comes_first_and_alone() -> None:
    async def test(queue: Queue) -> None:
        jobs = [queue.admit(b"", 1, WANTED) for _ in range(6)]
        taken = queue.take()
        for job in taken:
            job.deaths += 1
        taken[1].outcome.cancel()
        await asyncio.sleep(0)
        queue.put_back(taken)
        order: list[list[QueuedImage]] = []
        while batch := queue.take():
            order.append(batch)
        assert order == [[jobs[0]], [jobs[2]], [jobs[3]], [jobs[4], jobs[5]]]

    run(test)


def test_a_batch_is_bounded_in_images_and_pixels() -> None:
    async def test(queue: Queue) -> None:
        small = [queue.admit(b"", 1, WANTED) for _ in range(3)]
        before = queue.has_full_batch
        large = [queue.admit(b"", pixels * MP, WANTED) for pixels in (12, 8, 1, 1)]
        assert (before, queue.has_full_batch) == (False, True)
        assert [queue.take(), queue.take(), queue.take()] == [small, large[:1], large[1:3]]
        assert not queue.has_full_batch and queue.take() == large[3:] and queue.take() == []

    run(test, most=30 * MP)
