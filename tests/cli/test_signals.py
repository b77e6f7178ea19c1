"""SIGTERM unwinds, once, and what waits for other processes ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from maskline.cli.signals import TERMINATED, terminable


def test_it_unwinds_and_the_second_does_not_disturb() -> None:
    cleared = False
    with pytest.raises(SystemExit) as caught, terminable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleared = True
    assert caught.value.code == TERMINATED == 143 and cleared
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_others_stays() -> None:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_other_threads_are_left_alone() -> None:
    done: list[bool] = []

    def work() -> None:
        with terminable():
            done.append(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_children_that_would_be_waited_for_end_too(tmp_path: Path) -> None:
    script = tmp_path / "wait.py"
    script.write_text(
        "import multiprocessing, os, signal, time\n"
        "from maskline.cli.signals import terminable\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=time.sleep, args=(60,))\n"
        "    child.start()\n"
        "    with terminable():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert subprocess.run([sys.executable, str(script)], timeout=30, check=False).returncode == TERMINATED
