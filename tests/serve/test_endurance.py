"""The service under strain: every request is answered once, with the right status, and memory stays as it is."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import requests
from fixtures import hostile
from fixtures.encoded import encoded as file_of
from fixtures.encoded import scene
from fixtures.service import Service, running
from fixtures.stub_service import DEADLY_IMAGE, FAULTY_IMAGE, INSTANT_IMAGE, SLOW_IMAGE, stub

MB = 1 << 20
HEAD = b"POST /instance-segmentation HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "


class Reply(NamedTuple):
    """An answer, whose envelope was as it should be."""

    status: int
    seconds: float
    retry_after: str | None


class Client:
    """Keeps a connection for each thread, as each client would."""

    def __init__(self, service: Service) -> None:
        self._service, self._local = service, threading.local()
        self._sessions = contextlib.ExitStack()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._sessions.close()

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = self._sessions.enter_context(requests.Session())
        session: requests.Session = self._local.session
        return session

    def ask(self, body: dict[str, Any], log_id: str) -> Reply:
        """Asserts that it is this request which was answered."""
        started = time.monotonic()
        url, request = f"{self._service.url}/instance-segmentation", {"visualize": False, **body, "logId": log_id}
        try:
            response = self._session().post(url, json=request, timeout=60)
        except requests.ConnectionError as error:
            code, log = self._service.process.poll(), self._service.errors[-9:]
            raise AssertionError(
                f"no answer after {time.monotonic() - started:.3f} s: {error}; {code}, {log}"
            ) from None
        answer = response.json()
        assert answer["logId"] == log_id
        assert answer["errorCode"] == (0 if response.status_code == 200 else response.status_code)
        return Reply(response.status_code, time.monotonic() - started, response.headers.get("Retry-After"))

    def show(self, image: str, log_id: str = "one") -> Reply:
        return self.ask({"image": image}, log_id)


@contextlib.contextmanager
def asked(client: Client, images: Sequence[str]) -> Iterator[list[Future[Reply]]]:
    """A client for each of the images, all at the same time."""
    with ThreadPoolExecutor(len(images)) as pool:
        yield [pool.submit(client.show, image, str(number)) for number, image in enumerate(images)]


def statuses(replies: Sequence[Future[Reply]]) -> Counter[int]:
    return Counter(reply.result().status for reply in replies)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_idle(service: Service) -> bool:
    """Nothing waits, and nothing that waits was forgotten."""
    return service.metric("maskline_queue_requests") == service.metric("maskline_queue_pixels") == 0


class Memory:
    """What the service and its worker hold, in MB, and the most that they did."""

    def __init__(self, service: Service) -> None:
        self._processes = [psutil.Process(pid) for pid in (service.process.pid, *service.workers())]
        self.most = self.now()
        self._ended = threading.Event()

    def now(self) -> list[float]:
        return [process.memory_info().rss / MB for process in self._processes]

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        def watch() -> None:
            while not self._ended.wait(0.01):
                self.most = [max(pair) for pair in zip(self.most, self.now(), strict=True)]

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


def survived(service: Service, bodies: Sequence[dict[str, Any]]) -> Counter[int]:
    """The statuses of this number of requests, each answered once; the service survives them."""
    pids, count = service.workers(), len(bodies)
    with Client(service) as client, ThreadPoolExecutor(6) as pool:
        found = Counter(reply.status for reply in pool.map(client.ask, bodies, map(str, range(count))))
    assert set(found) == {200, 413, 422} and found.total() == count
    assert service.workers() == pids and service.get("/health").status_code == 200
    assert sum(service.metric(f'maskline_requests_total{{status="{status}"}}') for status in found) == count
    assert service.metric("maskline_worker_deaths_total") == 0 and is_idle(service)
    assert not [line for line in service.errors if "Traceback" in line or "Warning" in line]
    return found


def test_a_thousand_hostile_images() -> None:
    """B44, B47: 200, 413 or 422, each once; the same processes afterwards, and no more memory than an image needs.

    A bomb of 109 kB would take 2.7 GB, and some that are small by their header unpack to 25 MB.
    """
    bodies = [body for _, body in hostile.requests(1000)]
    with stub(max_pixels=2_000_000, queue_pixels=64_000_000) as service:
        memory = Memory(service)
        before = memory.now()
        with memory.watched():
            found = survived(service, bodies)
        assert min(found.values()) > 100
        growth = [most - first for first, most in zip(before, memory.most, strict=True)]
        assert growth[0] < 60 and growth[1] < 250, growth
        assert service.end() == 0


def test_images_of_odd_shapes_and_kinds_meet_a_real_model() -> None:
    """B44: a row of 60,000 pixels, one pixel, a palette, floats … each has a result, or a reason why not."""
    bodies = [body for _, body in hostile.requests(len(hostile.FIXED))]
    with running("serve", "--threads", "1", "--max-pixels", "2", "--queue-pixels", "64") as service:
        survived(service, bodies)


@pytest.mark.parametrize("path", ["/instance-segmentation", "/v2/models/instance-segmentation/infer"])
def test_json_that_would_grow_is_refused_unread(path: str) -> None:
    """B47: tens of millions of values in a body of the largest size; others are answered meanwhile."""
    with stub() as service, ThreadPoolExecutor(1) as pool:
        memory = Memory(service)
        before = memory.now()[0]
        with memory.watched():
            bomb = pool.submit(service.post, b'{"image": "", "x": [' + b"{}," * (20 * MB) + b"0]}", path)
            waits = []
            while not bomb.done():
                started = time.monotonic()
                assert service.get("/health").status_code == 200
                waits.append(time.monotonic() - started)
        assert bomb.result().status_code in (400, 422) and max(waits) < 2
        assert memory.most[0] - before < 300


@contextlib.contextmanager
def connected(service: Service, count: int) -> Iterator[list[socket.socket]]:
    """This number of connections, on which nothing was said yet."""
    address = urlsplit(service.url)
    assert address.hostname is not None
    with contextlib.ExitStack() as closing:
        yield [
            closing.enter_context(socket.create_connection((address.hostname, address.port or 80), timeout=20))
            for _ in range(count)
        ]


def test_answers_are_not_held_back() -> None:
    """On a connection that is kept open, the two parts of an answer do not wait for each other (Nagle's algorithm)."""
    with stub() as service, Client(service) as client:
        assert np.median([client.show(INSTANT_IMAGE).seconds for _ in range(21)]) < 0.03


def test_slow_clients_are_cut_off_and_do_not_delay_others() -> None:
    """B47: heads that trickle in, bodies that never come whole, clients that leave: others are answered as before."""
    with (
        stub(head_seconds=1.0, body_timeout=1.0) as service,
        Client(service) as client,
        connected(service, 100) as heads,
        connected(service, 50) as bodies,
    ):
        started = time.monotonic()
        for number, body in enumerate(bodies):
            body.sendall(HEAD + b"1000\r\n\r\n" + b'{"image": "' * (number % 2))
        with connected(service, 50) as leavers:
            for leaver in leavers:
                leaver.sendall(HEAD + b'1000\r\n\r\n{"image": "')
        waits = []
        for letter in HEAD[:8]:
            for head in heads:
                with contextlib.suppress(ConnectionError):  # it may be cut off already
                    head.sendall(bytes([letter]))
            reply = client.show(INSTANT_IMAGE)
            assert reply.status == 200
            waits.append(reply.seconds)
            time.sleep(0.05)
        assert np.median(waits) < 0.5
        for body in bodies:
            assert body.recv(100).startswith(b"HTTP/1.1 408 ")
        for connection in (*heads, *bodies):
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1000):
                    pass
        assert 1 < time.monotonic() - started < 15
        assert client.show(INSTANT_IMAGE).status == 200 and is_idle(service)
        until(lambda: len(psutil.Process(service.process.pid).net_connections()) <= 3)  # ours, and where it listens


def test_connections_are_bounded() -> None:
    """B47: more than it takes are closed at once; those that say nothing make room for others."""
    with stub(head_seconds=3.0, connections=20) as service, connected(service, 30):
        with pytest.raises(requests.ConnectionError):
            service.get("/health")
        assert psutil.Process(service.process.pid).num_fds() < 60
        time.sleep(3.2)
        assert service.get("/health").status_code == 200


def test_what_a_killed_worker_had_is_done_by_the_next() -> None:
    """F52: kill -9 in the midst of it: all that was under way is answered with 200, by another process."""
    with stub(seconds=0.05) as service, Client(service) as client:
        (before,) = service.workers()
        with asked(client, [SLOW_IMAGE] * 32) as replies:
            time.sleep(0.3)
            os.kill(before, signal.SIGKILL)
            until(lambda: service.get("/health").status_code == 503)
            assert service.post({"image": INSTANT_IMAGE}).status_code == 503
            assert statuses(replies) == {200: 32}
        assert service.get("/health").status_code == 200 and service.workers() != [before]
        assert service.metric("maskline_worker_deaths_total") == 1 and is_idle(service)


def test_a_worker_does_not_outlive_its_service() -> None:
    with stub() as service:
        worker = psutil.Process(service.workers()[0])
        service.process.kill()
        worker.wait(10)


def test_an_image_that_kills_workers_stands_alone() -> None:
    """500 for it when two have died; those that were in a batch with it, or in the next one, get their answers."""
    with stub(seconds=0.05) as service, Client(service) as client:
        images = [SLOW_IMAGE] * 32
        images[5] = DEADLY_IMAGE
        with asked(client, images) as replies:
            assert replies[5].result().status == 500
            assert statuses(replies) == {200: 31, 500: 1}
        assert service.metric("maskline_worker_deaths_total") == 2 and is_idle(service)
        assert not [line for line in service.errors if "Traceback" in line]


def test_an_unexpected_fault_affects_one_image() -> None:
    """500 for it; no worker dies, and what was in a batch with it is answered."""
    with stub(seconds=0.05) as service, Client(service) as client:
        workers = service.workers()
        images = [SLOW_IMAGE] * 16
        images[5] = FAULTY_IMAGE
        with asked(client, images) as replies:
            assert replies[5].result().status == 500
            assert statuses(replies) == {200: 15, 500: 1}
        assert service.workers() == workers and service.metric("maskline_worker_deaths_total") == 0
        assert any("an unexpected fault" in line for line in service.errors)  # for those who run it


def test_overload() -> None:
    """B47: 64 clients and room for four: each request gets 200, or 429 and when to come again; none is lost."""
    with stub(seconds=0.02, queue_pixels=4_000_000, max_pixels=1_000_000) as service, Client(service) as client:
        with asked(client, [SLOW_IMAGE] * 64) as first, asked(client, [SLOW_IMAGE] * 64) as second:
            replies = [reply.result() for reply in (*first, *second)]
        found = Counter(reply.status for reply in replies)
        assert set(found) == {200, 429} and found.total() == 128 and found[200] >= 4
        assert all(int(reply.retry_after or 0) >= 1 for reply in replies if reply.status == 429)
        assert [service.metric(f'maskline_requests_total{{status="{status}"}}') for status in (200, 429)] == [
            found[200],
            found[429],
        ]
        assert is_idle(service) and client.show(INSTANT_IMAGE).status == 200


def test_deadline() -> None:
    """B47: a 504 in time, and no work on requests that have been answered."""
    with stub(seconds=2.0, timeout=0.5, batch_size=1) as service, Client(service) as client:
        started = time.monotonic()
        with asked(client, [SLOW_IMAGE] * 6) as replies:
            assert statuses(replies) == {504: 6}
            assert all(0.5 <= reply.result().seconds < 1.9 for reply in replies)
        assert is_idle(service)
        time.sleep(max(0.0, started + 4.5 - time.monotonic()))  # two had been handed out, which take 4 s
        assert client.show(INSTANT_IMAGE).status == 200


def test_clients_that_leave_make_room() -> None:
    """B47: a place in the queue is for those who wait."""
    with (
        stub(seconds=3.0, queue_pixels=4_000_000, max_pixels=1_000_000, batch_size=1) as service,
        Client(service) as client,
    ):
        body = json.dumps({"image": SLOW_IMAGE}).encode()
        with connected(service, 4) as leavers:
            for leaver in leavers:
                leaver.sendall(HEAD + str(len(body)).encode() + b"\r\n\r\n" + body)
            until(lambda: service.metric("maskline_queue_pixels") == 4_000_000)
            assert client.show(INSTANT_IMAGE).status == 429
        until(lambda: is_idle(service), 2.0)
        assert client.show(INSTANT_IMAGE).status == 200


def test_sigterm_drains() -> None:
    """F52: what is under way gets its answer, what comes after is refused, and the exit code is 0."""
    with stub(seconds=1.5) as service, Client(service) as client:
        with asked(client, [SLOW_IMAGE] * 3) as replies:
            until(lambda: service.metric("maskline_queue_pixels") == 3_000_000)
            service.process.terminate()
            until(lambda: service.get("/health").status_code == 503)
            late = service.post({"image": INSTANT_IMAGE})
            assert (late.status_code, late.headers["Retry-After"], late.headers["Connection"]) == (503, "1", "close")
            assert statuses(replies) == {200: 3}
        assert service.process.wait(10) == 0
        with pytest.raises(requests.ConnectionError):
            service.get("/health")
        assert not [line for line in service.errors if "Traceback" in line]


def test_the_time_to_drain_is_bounded() -> None:
    """Clients that can't be answered in it get an answer that says so."""
    with stub(seconds=20, drain=0.3) as service, Client(service) as client, asked(client, [SLOW_IMAGE] * 2) as replies:
        until(lambda: service.metric("maskline_queue_pixels") == 2_000_000)
        started = time.monotonic()
        assert service.end() == 0 and time.monotonic() - started < 5
        assert statuses(replies) == {503: 2}


def test_a_second_signal_ends_it_at_once() -> None:
    with stub(seconds=20) as service, ThreadPoolExecutor(1) as pool:
        reply = pool.submit(service.post, {"image": SLOW_IMAGE})
        until(lambda: service.metric("maskline_queue_pixels") == 1_000_000)
        worker = psutil.Process(service.workers()[0])
        service.process.terminate()
        until(lambda: service.get("/health").status_code == 503)
        started = time.monotonic()
        service.end()
        assert time.monotonic() - started < 3 and not worker.is_running()
        assert reply.exception() is not None or reply.result().status_code == 500


def test_the_access_log_is_not_read() -> None:
    """Lines are lost then, no requests, and the service can end."""
    with stub(access_log=True) as service, requests.Session() as session:
        for _ in range(600):  # a pipe holds about 300 lines
            assert session.get(f"{service.url}/nothing", timeout=5).status_code == 404
        session.close()
        started = time.monotonic()
        assert service.end() == 0 and time.monotonic() - started < 8


def test_memory_is_flat() -> None:
    """3,000 requests: after the first third neither process grows any more."""
    images = [base64.b64encode(file_of("jpg", scene(96, 128, seed))).decode() for seed in range(20)]
    with stub() as service, Client(service) as client:
        memory, held = Memory(service), []
        order = np.random.default_rng(0).integers(0, len(images), 3000)
        with ThreadPoolExecutor(4) as pool:
            for third in np.split(order, 3):
                bodies = [{"image": images[number], "visualize": bool(number % 2)} for number in third]
                assert {reply.status for reply in pool.map(client.ask, bodies, map(str, range(1000)))} == {200}
                held.append(memory.now())
        growth = [last - first for first, last in zip(held[0], held[-1], strict=True)]
        assert max(growth) < 8, held
        assert service.metric('maskline_requests_total{status="200"}') == 3000 and is_idle(service)
