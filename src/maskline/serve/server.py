"""The process that runs the application: socket, uvicorn, signals, access log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from maskline.errors import ParameterError
from maskline.serve.app import access, application
from maskline.serve.service import Service
from maskline.serve.settings import ServiceSettings
from maskline.serve.workers import SHUTDOWN_TIMEOUT, Opener

HEAD_SECONDS = 10.0  # limit for the head of a request, the rest of a rejected one, and the end of a response
IDLE_SECONDS = 30  # how long a connection is kept open between requests
CONNECTIONS = 800  # maximum; further ones are closed at once
BACKLOG = 128  # connections accepted at once, before any of them is closed as excess
OTHER_FILES = 100  # open files besides connections
LAST_SECONDS = 5  # limit for connections to close once all requests are done
LOG_LINES = 10_000  # maximum queued lines of the access log; more are dropped
LAST_LINES = 1.0  # seconds to write them at the end

logger = logging.getLogger("maskline")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Protocol(H11Protocol):
    """uvicorn's protocol with limits that it lacks: time to receive a request's head, and number of connections."""

    most = CONNECTIONS
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does this only if the socket names its protocol; otherwise response heads wait 40 ms for their bodies
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.most:
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        """Run the timer while a connection is neither idle nor waiting for our response."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self.timeout_keep_alive_task is not None:
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._close)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        """Close the connection, even if the client does not read the remaining data."""
        self.transport.close()
        self.loop.call_later(HEAD_SECONDS, self.transport.abort)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(openers: Sequence[Opener], settings: ServiceSettings, report: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then complete pending requests. A second signal ends the service at once.

    >>> from functools import partial
    >>> from maskline import create_model
    >>> from maskline.serve import ServiceSettings, serve
    >>> serve([partial(create_model, threads=4)] * 2, ServiceSettings(port=8080))  # doctest: +SKIP

    Args:
        openers: model factories, one per worker; each is called in the process of its worker.
        settings: limits, addresses and options of the service.
        report: called with a line when the service opens its model and when it is ready; None: print.

    Raises:
        ParameterError: it can't listen at the address, or a model factory can't be pickled.
        StartError: the model can't be opened.
    """
    _have_standard_files()
    Protocol.most = min(CONNECTIONS, _files() - BACKLOG - OTHER_FILES)
    with _listening(settings.host, settings.port) as listener, _access_log(settings.access_log), _no_warnings():
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it logs invalid requests of clients
        asyncio.run(_serve(openers, settings, listener, partial(print, flush=True) if report is None else report))


def _have_standard_files() -> None:
    """Open the three standard descriptors if closed: otherwise a socket could get one, and receive log lines."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _files() -> int:
    """Number of files that this process may open, after raising the soft limit if needed.

    Raises:
        ParameterError: the limit is too low for serving.
    """
    needed = CONNECTIONS + BACKLOG + OTHER_FILES
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return needed
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return needed
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < 2 * (BACKLOG + OTHER_FILES):
        raise ParameterError(f"this process may open {soft} files: expected at least 500 (ulimit -n, LimitNOFILE)")
    return soft


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()  # then IPv4 too
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or error
        raise ParameterError(
            f"can't listen on {host} port {port}: {reason}; choose others with --host and --port"
        ) from None
    with listener:
        yield listener


@contextlib.contextmanager
def _access_log(enabled: bool) -> Iterator[None]:
    """Write the access log to stdout in a thread, so that a stalled reader blocks nothing else."""
    if not enabled:
        yield
        return
    handler = _Lines()
    access.addHandler(handler)
    access.setLevel(logging.INFO)
    access.propagate = False
    try:
        yield
    finally:
        access.removeHandler(handler)
        handler.finish()


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Ignore Pillow's warnings about damaged files: Python would store every distinct message forever."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


class _Lines(logging.Handler):
    """Writes lines to stdout; drops lines if its queue is full or the output is closed."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: queue.Queue[bytes | None] = queue.Queue(LOG_LINES)
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(self.format(record).encode() + b"\n")

    def finish(self) -> None:
        """Write the queued lines, unless the reader is stalled."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(LAST_LINES)

    def _write(self) -> None:
        """Write to the file descriptor: at exit, the interpreter would wait for a thread that holds sys.stdout."""
        while (line := self._waiting.get()) is not None:
            with contextlib.suppress(OSError):
                os.write(1, line)


async def _serve(
    openers: Sequence[Opener], settings: ServiceSettings, listener: socket.socket, report: Callable[[str], None]
) -> None:
    service = Service(openers, settings)
    config = uvicorn.Config(
        application(service),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    server = _Server(config)
    address = _address(listener)
    if not settings.is_local and settings.api_key is None:
        logger.warning("%s can be reached from other machines without an API key", address)
    report(f"opening the model, to serve it on {address}")
    service.workers.start()
    ending: list[asyncio.Task[None]] = []

    def end() -> None:
        server.force_exit = bool(ending)
        server.should_exit = server.should_exit or server.force_exit
        ending.append(asyncio.create_task(_drain(service, server)))

    with _on_signals(end):
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await asyncio.wait({running, service.workers.first}, return_when=asyncio.FIRST_COMPLETED)
            if service.workers.first.done() and service.workers.first.exception() is None:
                about = service.workers.about
                where = f"{about['device']}, {about['backend']}, {len(openers)} worker{'s' * (len(openers) > 1)}"
                report(f"serving {about['model']} on {address} ({where}); press Ctrl-C to stop")
                await running
        finally:
            server.should_exit = True
            await running
            await service.workers.stop(0.0 if server.force_exit or service.drain_timed_out else SHUTDOWN_TIMEOUT)
    if service.workers.first.done():
        service.workers.first.result()


async def _drain(service: Service, server: uvicorn.Server) -> None:
    await service.drain()
    server.should_exit = True


@contextlib.contextmanager
def _on_signals(end: Callable[[], None]) -> Iterator[None]:
    """Call ``end`` in the event loop on SIGTERM and SIGINT."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(end))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
