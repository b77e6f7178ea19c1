"""``maskline serve --selftest``: load-test a service with given model and settings, check by check.

The service runs in a separate process on a free local port; the test sends a few hundred requests, only to that port.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import multiprocessing
import os
import signal
import struct
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp

from maskline._files import ASSETS
from maskline._wording import counted
from maskline.errors import MasklineError
from maskline.serve.server import serve
from maskline.serve.settings import ServiceSettings
from maskline.serve.workers import Opener, StartError

CLIENTS = 64  # concurrent, in the overload check
SLOW = 16  # connections that never finish their request
OPEN_TIMEOUT = 600.0  # seconds to open the model, which may have to be downloaded
IMAGE = ASSETS / "nuclei.png"
ROUTE = "/instance-segmentation"


class CheckError(Exception):
    """A check failed; the message describes what was observed."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check."""

    name: str
    passed: bool
    seen: str
    seconds: float


class _Target:
    """The service under test, and a client for it."""

    def __init__(self, process: Any, url: str, client: aiohttp.ClientSession, settings: ServiceSettings) -> None:
        self.process, self.url, self.client, self.settings = process, url, client, settings

    async def ask(self, image: str | bytes, **more: Any) -> tuple[int, dict[str, Any], Any]:
        """Send a request; return status, body and headers of the response."""
        text = image if isinstance(image, str) else _encoded(image)
        body = {"image": text, "visualize": False, **more}
        async with self.client.post(self.url + ROUTE, json=body) as answer:
            return answer.status, json.loads(await answer.read()), answer.headers

    async def health(self) -> int:
        async with self.client.get(f"{self.url}/health") as answer:
            return answer.status


def selftest(openers: Sequence[Opener], settings: ServiceSettings, report: Callable[[str], None] = print) -> bool:
    """Run all checks, report each in a line, and return whether all passed.

    Args:
        openers, settings: as in `maskline.serve.serve`, except that the service listens on the loopback only.
        report: called with each line.

    Raises:
        StartError: the service does not start, for example because the model can't be opened.
    """
    settings = replace(settings, host="127.0.0.1", port=0, access_log=False)
    return asyncio.run(_selftest(openers, settings, report))


async def _selftest(openers: Sequence[Opener], settings: ServiceSettings, report: Callable[[str], None]) -> bool:
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(openers, settings, there), name="service")
    process.start()
    there.close()
    headers = {} if settings.api_key is None else {"X-API-Key": settings.api_key}
    try:
        url = await asyncio.to_thread(_ready, here)
        limit = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=headers, connector=limit) as client:
            target = _Target(process, url, client, settings)
            outcomes = [await _run(check, target, report) for check in CHECKS]
    finally:
        process.kill()
        process.join()
    failed = sum(not outcome.passed for outcome in outcomes)
    report(f"{len(outcomes) - failed} of {len(outcomes)} checks passed")
    return not failed


def _serve(openers: Sequence[Opener], settings: ServiceSettings, connection: Connection) -> None:
    logging.basicConfig(level=logging.WARNING, format="      service log: %(message)s")
    try:
        serve(openers, settings, connection.send)
    except MasklineError as error:
        connection.send(StartError(str(error), error.exit_code))


def _ready(connection: Connection) -> str:
    """Wait until the service is ready and return its address. Raises StartError."""
    while connection.poll(OPEN_TIMEOUT):
        try:
            message = connection.recv()
        except EOFError:
            break
        if isinstance(message, StartError):
            raise message
        if message.startswith("serving "):
            return str(message).partition(" on ")[2].split()[0]
    raise StartError("the service under test did not become ready", 1)


async def _run(
    check: Callable[[_Target], Awaitable[str]], target: _Target, report: Callable[[str], None]
) -> CheckResult:
    started, name = time.perf_counter(), (check.__doc__ or "").splitlines()[0].rstrip(".")
    try:
        seen, passed = await check(target), True
    except (CheckError, aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        seen, passed = str(error) or type(error).__name__, False
    outcome = CheckResult(name, passed, seen, time.perf_counter() - started)
    report(f"{'pass' if passed else 'FAIL'}  {name}: {seen} ({outcome.seconds:.1f} s)")
    return outcome


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _require(holds: bool, seen: str) -> str:
    if not holds:
        raise CheckError(seen)
    return seen


async def an_image(target: _Target) -> str:
    """An image gets its instances and the client's logId."""
    status, body, _ = await target.ask(IMAGE.read_bytes(), logId="selftest")
    _require(status == 200 and body["logId"] == "selftest", f"status {status}: {body}")
    return counted(len(body["result"]["instances"]), "instance")


async def what_is_none(target: _Target) -> str:
    """Data that is not an image is rejected with a reason."""
    statuses = [(await target.ask(image))[0] for image in (b"a text", b"", "no Base64", IMAGE.read_bytes()[:999])]
    return _require(statuses == [422] * 4, f"statuses {statuses}")


async def a_bomb(target: _Target) -> str:
    """An image of 900 million pixels in 200 bytes is rejected before it is decoded."""
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    status, body, _ = await target.ask(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return _require(status == 413, f"status {status}: {body['errorMsg']}")


async def overload(target: _Target) -> str:
    """64 concurrent clients: each gets one response, a result or a Retry-After."""
    image = _encoded(IMAGE.read_bytes())
    answers = await asyncio.gather(*(target.ask(image, logId=str(i)) for i in range(CLIENTS)))
    statuses = Counter(status for status, _, _ in answers)
    own = all(body["logId"] == str(i) for i, (_, body, _) in enumerate(answers))
    retry = all("Retry-After" in headers for status, _, headers in answers if status == 429)
    return _require(own and retry and set(statuses) <= {200, 429}, f"statuses {dict(statuses)}")


async def slow_clients(target: _Target) -> str:
    """Clients that never finish their request don't delay others."""
    host, _, port = target.url.removeprefix("http://").partition(":")
    writers = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(SLOW)]
    try:
        for writer in writers:
            writer.write(f"POST {ROUTE} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n{{".encode())
        started = time.perf_counter()
        status = (await asyncio.wait_for(target.ask(IMAGE.read_bytes()), target.settings.timeout))[0]
        seconds = time.perf_counter() - started
        return _require(status == 200, f"status {status} after {seconds:.2f} s with {SLOW} slow clients")
    finally:
        for writer in writers:
            writer.close()


async def health_under_load(target: _Target) -> str:
    """Health responds within a second while the model is running."""
    image, longest = _encoded(IMAGE.read_bytes()), 0.0
    work = [asyncio.create_task(target.ask(image)) for _ in range(8)]
    while not all(task.done() for task in work):
        started = time.perf_counter()
        await target.health()
        longest = max(longest, time.perf_counter() - started)
        await asyncio.sleep(0.02)
    await asyncio.gather(*work)
    return _require(longest < 1, f"{longest * 1000:.0f} ms at most")


async def a_worker_killed(target: _Target) -> str:
    """When a worker is killed, the next one completes its requests."""
    workers = await asyncio.to_thread(_children, target.process.pid)
    if not workers:
        return "skipped: the worker processes can't be listed on this system"
    image = _encoded(IMAGE.read_bytes())
    work = [asyncio.create_task(target.ask(image)) for _ in range(4)]
    await asyncio.sleep(0.05)
    os.kill(workers[0], signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    statuses = Counter([status for status, _, _ in await asyncio.gather(*work)])
    return _require(set(statuses) == {200}, f"statuses {dict(statuses)}")


async def the_end(target: _Target) -> str:
    """On SIGTERM, the service completes pending requests and exits with 0."""
    image = _encoded(IMAGE.read_bytes())
    work = [asyncio.create_task(target.ask(image)) for _ in range(4)]
    await asyncio.sleep(0.05)
    target.process.terminate()
    statuses = [status for status, _, _ in await asyncio.gather(*work)]
    await asyncio.to_thread(target.process.join, target.settings.drain + 30)
    code = target.process.exitcode
    return _require(statuses == [200] * 4 and code == 0, f"statuses {statuses}, exit code {code}")


def _children(pid: int) -> list[int]:
    """Child processes, from Linux's list; empty on other systems."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except OSError:
        return []


#: In order; the last one ends the service.
CHECKS = (an_image, what_is_none, a_bomb, overload, slow_clients, health_under_load, a_worker_killed, the_end)
