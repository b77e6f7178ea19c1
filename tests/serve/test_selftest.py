"""``maskline serve --selftest``: passes on a sound service, and says what does not hold on others."""

from __future__ import annotations

import subprocess
import sys

from fixtures.service import IMAGE


def selftest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maskline", "serve", "--selftest", "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_sound_service_passes() -> None:
    """B47: overload, slow clients, a killed worker and the end, on the user's own model and settings."""
    done = selftest("--queue-pixels", "4", "--max-pixels", "4", "--port", "1")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[-1] == "8 of 8 checks passed" and all(line.startswith("pass  ") for line in lines[:-1])
    (overload,) = [line for line in lines if "concurrent clients" in line]
    assert "429: " in overload and "200: " in overload


def test_failed_checks_are_reported() -> None:
    done = selftest("--max-pixels", "0.1")  # too few for the image that is asked about
    assert done.returncode == 1
    assert "FAIL  An image gets its instances" in done.stdout and "413" in done.stdout


def test_a_service_that_does_not_start() -> None:
    done = selftest("--model-dir", str(IMAGE.parent / "nowhere"))
    assert done.returncode == 1 and done.stderr.startswith("maskline: no model directory") and not done.stdout
