"""What other packages do on their own: reports of use, ids and caches, which shall neither be sent nor left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from fixtures import service, sets

import maskline
from maskline.errors import MissingDependencyError
from maskline.runtime import providers

PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"
TESTS = Path(__file__).parent

#: Loaded by every Python of a test: writes down each host that is asked for or connected to, but this machine.
WATCH = """
import os, sys
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        with open(os.environ["WATCH_LOG"], "a") as file:
            file.write(f"{event} {host}\\n")
sys.addaudithook(watch)
"""
LEFT_TO_PACKAGES = ("XDG_", "ORT_", "MPL", "MASKLINE_", "PADDLE_", "LOCALAPPDATA")

EXPORT = """
import sys
sys.path.insert(0, sys.argv[1])
from fixtures import tiny
from maskline.exporting import ExportOptions, export_network
target = ExportOptions("openvino", int8=sys.argv[3])
export_network(tiny.network(), tiny.SPEC, sys.argv[2], labels=tiny.CLASSES, options=target)
"""


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes have a home without anything in it, no wishes of the user, and are watched."""
    for variable in os.environ:
        if variable.startswith(LEFT_TO_PACKAGES):
            monkeypatch.delenv(variable)
    for name in ("home", "watch"):
        (tmp_path / name).mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WATCH_LOG", str(tmp_path / "hosts"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "watch"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def nothing_left(tmp_path: Path) -> Callable[[], None]:
    """Asserts that the home is still empty and that no host was asked for."""

    def check() -> None:
        assert not [str(path) for path in (tmp_path / "home").rglob("*")]
        assert not (tmp_path / "hosts").exists(), (tmp_path / "hosts").read_text()

    return check


def run(*arguments: object) -> None:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_predicting_sends_and_leaves_nothing(engine: str, nothing_left: Callable[[], None]) -> None:
    run("-m", "maskline", "predict", PHOTO, "--engine", engine, "--quiet")
    nothing_left()


def test_checking_sends_and_leaves_nothing(tmp_path: Path, nothing_left: Callable[[], None]) -> None:
    run("-m", "maskline", "check", sets.make(tmp_path / "set"))
    assert (tmp_path / "output" / "check_dataset" / "histogram.png").exists()
    nothing_left()


def test_serving_sends_and_leaves_nothing(nothing_left: Callable[[], None]) -> None:
    with service.running("serve") as served:
        assert served.get("/v2/health/ready").status_code == 200 and served.workers()
    nothing_left()


@pytest.mark.slow
def test_exporting_sends_and_leaves_nothing(tmp_path: Path, nothing_left: Callable[[], None]) -> None:
    """With all that an export can need: torch's exporter, ONNX Runtime, its quantization, OpenVINO."""
    run("-c", EXPORT, TESTS, tmp_path / "model", sets.make(tmp_path / "set") / "images")
    nothing_left()


def test_the_watch_sees_hosts(tmp_path: Path) -> None:
    run("-c", "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))")
    assert (tmp_path / "hosts").read_text() == "socket.connect 192.0.2.1\n"


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_choice_of_the_users_stays(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(MissingDependencyError):  # none is loaded here, which would send something
        providers.library()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == value


def test_openvino_can_still_be_used_for_other_work() -> None:
    """Only its report of use is out of reach, and only while it is imported."""
    run(
        "-c",
        "import sys; from maskline.runtime import openvino_backend; openvino = openvino_backend.library(); "
        "assert callable(openvino.convert_model) and 'openvino_telemetry' not in sys.modules; "
        "import openvino_telemetry",
    )
