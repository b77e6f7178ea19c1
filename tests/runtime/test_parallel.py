"""Spreading work: order, look-ahead, faults at their turn, and nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from maskline.errors import InputError, ModelError
from maskline.runtime.parallel import AHEAD, map_ordered


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("maskline")]


def square(worker: str, job: int) -> int:
    """Later jobs are done sooner."""
    time.sleep(0.02 / (1 + job))
    return job * job


@pytest.mark.parametrize("workers", [["a"], ["a", "b"], ["a", "b", "c", "d", "e"]])
@pytest.mark.parametrize("jobs", [0, 1, 4, 23])
def test_results_come_in_order(workers: list[str], jobs: int) -> None:
    """F37."""
    assert list(map_ordered(iter(range(jobs)), workers, square)) == [(i, i * i) for i in range(jobs)]
    assert running() == []


def test_work_is_shared_and_no_worker_has_two_jobs_at_once() -> None:
    """F37: a slow job does not hold up the other worker, as it would in turns."""
    busy: dict[str, int] = {"a": 0, "b": 0}
    done: dict[str, int] = {"a": 0, "b": 0}
    release = threading.Event()

    def work(worker: str, job: int) -> None:
        busy[worker] += 1
        assert busy[worker] == 1
        if job == 0:
            assert release.wait(10)
        if job == 3:
            release.set()  # which only the other worker can reach
        busy[worker] -= 1
        done[worker] += 1

    assert len(list(map_ordered(iter(range(4)), ["a", "b"], work))) == 4
    assert sorted(done.values()) == [1, 3]


def test_no_more_is_taken_ahead_than_promised() -> None:
    taken = []

    def jobs() -> Iterator[int]:
        for i in range(50):
            taken.append(i)
            yield i

    results = map_ordered(jobs(), ["a", "b"], square)
    assert taken == []
    for i, (job, _) in enumerate(results):
        assert job == i and len(taken) <= i + 2 * AHEAD


def test_what_is_done_is_not_held_back_for_more_to_take() -> None:
    """So that a camera's first frame is shown when it is done, not when the next ones have come."""
    finished = threading.Event()

    def work(worker: str, job: int) -> int:
        finished.set()
        return job

    def slow() -> Iterator[int]:
        yield 0
        assert finished.wait(10)
        time.sleep(0.05)  # for the outcome to be stored
        yield 1
        pytest.fail("a third job was taken before the first outcome was handed out")

    assert next(map_ordered(slow(), ["a", "b"], work)) == (0, 0)


def test_one_worker_takes_nothing_ahead() -> None:
    jobs = iter(range(3))
    next(map_ordered(jobs, ["a"], square))
    assert next(jobs) == 1


@pytest.mark.parametrize("workers", [["a"], ["a", "b", "c"]])
def test_faults_come_at_their_turn(workers: list[str]) -> None:
    def failing(worker: str, job: int) -> int:
        if job == 5:
            raise ModelError("out of memory")
        return square(worker, job)

    results = map_ordered(iter(range(20)), workers, failing)
    assert [next(results)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ModelError, match="out of memory"):
        next(results)
    assert running() == [] and list(results) == []


@pytest.mark.parametrize("workers", [["a"], ["a", "b", "c"]])
def test_what_can_not_be_taken_is_reported_after_what_came_before(workers: list[str]) -> None:
    def jobs() -> Iterator[int]:
        yield from range(4)
        raise InputError("bad.png")

    results = map_ordered(jobs(), workers, square)
    assert [next(results)[0] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(InputError, match="bad.png"):
        next(results)
    assert running() == []


def test_stopping_early_leaves_nothing_running() -> None:
    """F37: what has begun ends, what has not is dropped."""
    done = []

    def slow(worker: str, job: int) -> int:
        time.sleep(0.05)
        done.append(job)
        return job

    results = map_ordered(iter(range(1000)), ["a", "b"], slow)
    next(results)
    assert len(running()) == 2
    results.close()
    assert running() == [] and len(done) <= 2 * AHEAD + 1
