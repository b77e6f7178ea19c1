"""SIGTERM as an interrupt: a command cleans up before it ends."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATE_TIMEOUT = 2.0  # seconds for child processes to end by themselves
TERMINATED = 128 + signal.SIGTERM  # the exit code, by the shell's convention


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM raise SystemExit with `TERMINATED`, once, so that cleaning up is not interrupted.

    Child processes that would be waited for are ended too. An existing handler or an ignored SIGTERM is kept, and
    outside the main thread, where Python allows no handlers, nothing changes.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        children = [child for child in multiprocessing.active_children() if not child.daemon]
        for child in children:
            child.terminate()
        for child in children:
            child.join(TERMINATE_TIMEOUT)
            child.kill()
            child.join()
        print("maskline: terminated", file=sys.stderr, flush=True)
        raise SystemExit(TERMINATED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
