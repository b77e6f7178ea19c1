"""SIGTERM as an interrupt: what a command has begun is cleared away before it ends."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM  # the exit code, by the shell's convention


@contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM raise SystemExit with `TERMINATED`, once: what unwinds is not to be interrupted again.

    Processes that would be waited for are ended too. A handler that is there already stays, as does a SIGTERM that is
    ignored, and outside the main thread, where Python allows none.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for child in multiprocessing.active_children():
            if not child.daemon:
                child.terminate()
        raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
