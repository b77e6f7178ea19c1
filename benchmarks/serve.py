"""The service under load, compared with a service that handles one request at a time.

    python benchmarks/serve.py [--model-dir DIR] [--seconds 10] [--clients 1 8 64] [--rounds 3] [--json FILE]
    python benchmarks/serve.py --soak MINUTES [--model-dir DIR] [--clients 8]

The first service is ``maskline serve`` with its default settings, or with ``--options``. The other has the same model
and gives the same responses, but works like PaddleX's basic server: an event loop that decodes and encodes images
itself, one thread for the model, and an unbounded queue. Both run all the time and are loaded alternately; the table
shows medians over the rounds.

The load comes from a separate process: each client sends a request, by default an image of nuclei, as soon as it has
the previous response, or after the delay that a 429 asks for. Meanwhile another client requests ``/health``. Throughput
and latency cover responses with status 200. Memory is the peak RSS of a service and its workers together in a round.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import uvicorn
from fastapi import FastAPI, Request, Response
from timing import table

import maskline
from maskline.serve import answering, images, protocol

IMAGE = Path(maskline.__file__).with_name("assets") / "nuclei.png"
ROUTE, HEALTH = "/instance-segmentation", "/health"
WARM_SECONDS = 2.0
HEALTH_EVERY = 0.05  # seconds
TIMEOUT = 300.0  # seconds, of a client
ROWS = 20  # of the soak's table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", help="an exported model; default: the embedded one")
    parser.add_argument("--image", type=Path, default=IMAGE, help="the image to send")
    parser.add_argument("--clients", type=int, nargs="+", help="default: 1 8 64; 8 for --soak")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="only maskline's service, for this long: memory over time"
    )
    parser.add_argument("--options", default="", help="options of maskline's service, such as --options='--workers 2'")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--load", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        asyncio.run(peer(options.model_dir))
    elif options.load:
        found = asyncio.run(load(options.load, options.image, options.clients[0], options.seconds))
        print(json.dumps(found))
    elif options.soak:
        soak(options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Both services, alternately."""
    with started(own_command(options)) as ours, started(peer_command(options)) as theirs:
        services = {"maskline": ours, "one at a time": theirs}
        for service in services.values():
            loaded(service, options, 1, WARM_SECONDS)
        rows = []
        for clients in options.clients or (1, 8, 64):
            rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in services}
            for number in range(options.rounds):
                for name in sorted(services, reverse=bool(number % 2)):
                    rounds[name].append(loaded(services[name], options, clients, options.seconds))
            rows += [{"clients": clients, "service": name, **middle(rounds[name])} for name in services]
    print(f"{os.cpu_count()} cores, median of {options.rounds} rounds of {options.seconds:g} s, load average", end=" ")
    print(f"{os.getloadavg()[2]:.1f} over 15 minutes\n\n{table(rows)}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def middle(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each value; statuses are summed."""
    statuses: Counter[str] = Counter()
    for one in rounds:
        statuses.update(one["statuses"])
    figures = {key: statistics.median(one[key] for one in rounds) for key in rounds[0] if key != "statuses"}
    summary = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    return {key: round(value, 1) for key, value in figures.items()} | {"statuses": summary}


def own_command(options: argparse.Namespace) -> list[str]:
    model = ["--model-dir", options.model_dir] if options.model_dir else []
    return [
        sys.executable,
        "-m",
        "maskline",
        "serve",
        "--port",
        "0",
        "--no-access-log",
        *model,
        *shlex.split(options.options),
    ]


def peer_command(options: argparse.Namespace) -> list[str]:
    return [sys.executable, __file__, "--peer", *(["--model-dir", options.model_dir] if options.model_dir else [])]


class Started:
    """A service that is ready.

    Attributes:
        url: address of the service.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.url, self._process = url, psutil.Process(process.pid)

    def mib(self) -> list[float]:
        """Memory of its processes, the one with the socket first."""
        processes = [self._process, *self._process.children()]
        return [process.memory_info().rss / 2**20 for process in processes]


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[Started]:
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next((line for line in process.stderr if line.startswith("serving ")), None)
        if line is None:
            raise SystemExit("a service did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Started(process, line.partition(" on ")[2].split()[0])
    finally:
        process.terminate()
        process.wait(60)


def loaded(service: Started, options: argparse.Namespace, clients: int, seconds: float) -> dict[str, Any]:
    """The measurements of one round."""
    command = [sys.executable, __file__, "--load", service.url, "--clients", str(clients), "--seconds", str(seconds)]
    process = subprocess.Popen([*command, "--image", str(options.image)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    peak = 0.0
    with ThreadPoolExecutor(1) as pool:
        output = pool.submit(process.stdout.read)
        while not output.done():
            peak = max(peak, sum(service.mib()))
            time.sleep(0.05)
    if process.wait():
        raise SystemExit("the load could not be made")
    return {**json.loads(output.result()), "peak MiB": peak}


async def load(url: str, image: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Closed-loop clients for the given seconds; pending requests are completed."""
    body = json.dumps({"image": base64.b64encode(image.read_bytes()).decode()}).encode()
    times: list[float] = []
    health: list[float] = []
    statuses: Counter[str] = Counter()
    start = time.perf_counter()
    end = start + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        while (asked := time.perf_counter()) < end:
            async with session.post(url + ROUTE, data=body) as response:
                await response.read()
            statuses[str(response.status)] += 1
            if response.status == 200:
                times.append(time.perf_counter() - asked)
            else:
                await asyncio.sleep(float(response.headers.get("Retry-After", 1)))

    async def patient(session: aiohttp.ClientSession) -> None:
        while (asked := time.perf_counter()) < end:
            async with session.get(url + HEALTH) as response:
                await response.read()
            health.append(time.perf_counter() - asked)
            await asyncio.sleep(HEALTH_EVERY)

    limits = aiohttp.ClientTimeout(TIMEOUT)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limits) as session:
        await asyncio.gather(patient(session), *(client(session) for _ in range(clients)))
    if not times:
        raise SystemExit(f"no answers: {dict(statuses)}")
    return {
        "per second": len(times) / (time.perf_counter() - start),
        "p50 ms": 1000 * float(np.percentile(times, 50)),
        "p99 ms": 1000 * float(np.percentile(times, 99)),
        "health p50 ms": 1000 * float(np.percentile(health, 50)),
        "health p99 ms": 1000 * float(np.percentile(health, 99)),
        "statuses": statuses,
    }


async def peer(model_dir: str | None) -> None:
    """Serve as PaddleX does, until SIGTERM."""
    app, thread, loop = FastAPI(), ThreadPoolExecutor(1), asyncio.get_running_loop()
    model = maskline.create_model(model_dir=model_dir)

    @app.post(ROUTE)
    async def infer(request: Request) -> Response:
        given = protocol.parse(await request.body(), model.labels)
        wanted = protocol.PredictOptions.of(given, visualize=True)
        decoded = answering.decode(images.file_of(given.image))
        (instances,) = await loop.run_in_executor(thread, model.detect, [decoded.pixels], [wanted.threshold])
        result = answering.encode(decoded, instances, model.labels, wanted)
        return Response(protocol.success(protocol.new_log_id(), result), media_type="application/json")

    @app.get(HEALTH)
    async def health() -> Response:
        return Response(protocol.health(protocol.new_log_id()), media_type="application/json")

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # so that asyncio sets TCP_NODELAY
    with listener:
        listener.bind(("127.0.0.1", 0))
        print(f"serving on http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False)).serve([listener])


def soak(options: argparse.Namespace) -> None:
    """Memory of maskline's service over time, and its slope after the first third."""
    seconds, clients, rows = options.soak * 60, (options.clients or [8])[0], []
    with started(own_command(options)) as service, ThreadPoolExecutor(1) as pool:
        loaded(service, options, 1, WARM_SECONDS)
        start = time.perf_counter()
        figures = pool.submit(loaded, service, options, clients, seconds)
        while not figures.done():
            rows.append((time.perf_counter() - start, *service.mib()[:2]))
            time.sleep(min(5.0, seconds / 60))
    samples = np.array(rows)
    late = samples[samples[:, 0] > seconds / 3]
    slopes = [float(np.polyfit(late[:, 0] / 3600, late[:, i], 1)[0]) for i in (1, 2)]
    shown = samples[:: max(1, len(samples) // ROWS)]
    print(
        table([{"minutes": round(t / 60, 1), "front MiB": round(a, 1), "worker MiB": round(b, 1)} for t, a, b in shown])
    )
    print(f"\nslope after the first third: front {slopes[0]:+.1f}, worker {slopes[1]:+.1f} MiB per hour")
    print(table([{"clients": clients, **middle([figures.result()])}]))


if __name__ == "__main__":
    main()
