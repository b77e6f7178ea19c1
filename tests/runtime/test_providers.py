"""ONNX Runtime as it is installed: its providers, whether they start, and what to install."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from maskline.errors import MissingDependencyError
from maskline.runtime import providers
from maskline.runtime.device import CPU, PROVIDERS, Device
from maskline.runtime.providers import default_device, problem, provider_of, usable_kinds

GPU = Device("gpu", 1)
CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture(autouse=True)
def _ask_again() -> Iterator[None]:
    providers._fault.cache_clear()
    yield
    providers._fault.cache_clear()


def has(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)


def installed(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name not in names:
            raise PackageNotFoundError(name)
        return "1.31.1"

    monkeypatch.setattr(providers, "version", version)


REMEDIES = {
    "gpu": "for NVIDIA GPUs: pip install 'maskline[gpu]', see docs/gpu.md",
    "xpu": "for Intel GPUs: pip install 'maskline[openvino]', see docs/gpu.md",
    **dict.fromkeys(("npu", "dcu", "mps"), "install the build of ONNX Runtime for it"),
    **dict.fromkeys(("mlu", "gcu", "iluvatar_gpu", "metax_gpu"), "it has no provider for this kind of device"),
}


@pytest.mark.parametrize("kind", [kind for kind in PROVIDERS if kind != "cpu"])
def test_a_device_that_it_is_not_built_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """F36, B51, B52: known by name; the message says what there is, and what to install."""
    has(["CPUExecutionProvider"], monkeypatch)
    installed(("onnxruntime",), monkeypatch)
    assert default_device() == CPU and usable_kinds() == ["cpu"] and provider_of(Device(kind, 0)) is None
    message = f"device '{kind}:0' is not available: ONNX Runtime has cpu here; {REMEDIES[kind]}"
    assert problem(Device(kind, 0)) == message


def test_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """F12: a GPU that this ONNX Runtime is built for is the default."""
    has(["MIGraphXExecutionProvider", *CUDA], monkeypatch)
    assert default_device() == Device("gpu", 0)
    assert provider_of(CPU) == "CPUExecutionProvider"
    assert provider_of(GPU) == "CUDAExecutionProvider"
    assert provider_of(Device("dcu", 1)) == "MIGraphXExecutionProvider"


def test_two_packages_in_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `pip install 'maskline[gpu]'` alone leaves it: pip unpacks the CPU's package last."""
    has(["CPUExecutionProvider"], monkeypatch)
    installed(("onnxruntime", "onnxruntime-gpu"), monkeypatch)
    assert problem(GPU) == (
        "device 'gpu:1' is not available: ONNX Runtime has cpu here; onnxruntime and onnxruntime-gpu are both "
        "installed and overwrite each other: pip uninstall -y onnxruntime, then "
        "pip install --force-reinstall --no-deps onnxruntime-gpu"
    )


@pytest.mark.parametrize(
    ("package", "repair"),
    [
        (
            "onnxruntime-gpu",
            "pip uninstall -y onnxruntime, then pip install --force-reinstall --no-deps onnxruntime-gpu",
        ),
        ("onnxruntime", "pip install --force-reinstall --no-deps onnxruntime"),
    ],
)
def test_one_of_two_packages_was_removed(
    package: str, repair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes the other's files along: the folder is there, and empty."""
    (tmp_path / "onnxruntime").mkdir()
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    installed((package,), monkeypatch)
    with pytest.raises(MissingDependencyError, match=f"ONNX Runtime is incomplete, .*: {repair}$"):
        usable_kinds()


def test_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="ONNX Runtime can't be imported .*pip install onnxruntime"):
        default_device()


class Provider:
    """Stands in for a provider that is not here: sessions that get it, unless it does not start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fault: Exception | bool = False, printed: str = "") -> None:
        self.asked: list[Any] = []
        self.severities: list[int] = []
        real = onnxruntime.InferenceSession

        def session(model: Any, settings: Any, *, providers: list[Any], enable_fallback: int) -> Any:
            self.asked.append(providers)
            if isinstance(fault, Exception):
                raise fault
            made = real(model, settings, providers=["CPUExecutionProvider"])
            made.get_providers = lambda: ["CPUExecutionProvider"] if fault else [name for name, _ in providers]
            return made

        has(CUDA, monkeypatch)
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print(printed, end=""), raising=False)
        monkeypatch.setattr(onnxruntime, "set_default_logger_severity", self.severities.append)


def test_a_provider_that_starts(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Asked once for each device, on a graph that ONNX Runtime can open."""
    made = Provider(monkeypatch)
    assert [problem(device) for device in (GPU, Device("gpu", 0), GPU)] == [None] * 3
    assert made.asked == [[("CUDAExecutionProvider", {"device_id": number})] for number in ("1", "0")]
    assert made.severities == [4, 2] * 2 and capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fault", "printed", "reason"),
    [
        (True, "", "check the device, its driver and libraries"),
        (
            True,
            "Failed to load libcublas.so.13: no such file\nPlease follow https",
            "Failed to load libcublas.so.13: no such file",
        ),
        (RuntimeError("CUDA failure 100: no device\nat a.cc"), "", "CUDA failure 100: no device"),
    ],
)
def test_a_provider_that_does_not_start(
    fault: Exception | bool,
    printed: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """B52: built in, but ONNX Runtime would take the CPU. What it prints is in the one line."""
    made = Provider(monkeypatch, fault, printed)
    message = f"ONNX Runtime could not start CUDAExecutionProvider ({reason}); see docs/gpu.md"
    assert problem(GPU) == f"device 'gpu:1' is not available: {message}"
    assert made.severities == [4, 2] and capfd.readouterr() == ("", "")
