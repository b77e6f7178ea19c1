"""Opening: which device and backend, what replaces an unavailable one, and what is reported."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskline import catalog
from maskline.errors import DeviceError, MissingDependencyError, ModelError, ParameterError
from maskline.runtime import opening, providers
from maskline.runtime.backend import Acceleration
from maskline.runtime.device import CPU, parse_devices
from maskline.runtime.opening import open_graph, open_graphs

BEST = Acceleration(best=True, strict=False)
OPENVINO = Acceleration("openvino", strict=False)


@pytest.fixture(scope="module")
def path(tiny_model_dir: Path) -> Path:
    return tiny_model_dir / "inference.onnx"


@pytest.fixture
def gpu_in_name_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ONNX Runtime built for CUDA, on a machine without: it says that it can, and then takes the processor."""
    import onnxruntime

    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    real = onnxruntime.InferenceSession

    def without_cuda(model: Any, options: Any, providers: list[Any], **kept: Any) -> Any:
        here = [p for p in providers if p[0] != names[0]] or ["CPUExecutionProvider"]
        return real(model, options, providers=here, **kept)

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: names)
    monkeypatch.setattr("onnxruntime.InferenceSession", without_cuda)
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None, raising=False)
    providers._fault.cache_clear()
    yield
    providers._fault.cache_clear()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_one_line_says_what_was_chosen(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "maskline")
    open_graphs(path, "cpu", Acceleration())
    open_graphs(path, None, Acceleration(threads=1))
    open_graphs(path, "cpu,cpu", Acceleration("openvino", threads=1))
    assert caplog.messages == [
        "Mask-RT-DETR-S on cpu by ONNX Runtime (fp32)",
        "Mask-RT-DETR-S on cpu by ONNX Runtime (fp32, 1 thread)",
        "Mask-RT-DETR-S on cpu,cpu by OpenVINO (fp32, 1 thread each)",
    ]


@pytest.mark.parametrize(("cores", "copies", "threads"), [(8, 1, None), (8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_copies_on_the_processor_share_it(
    cores: int, copies: int, threads: int | None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F37."""
    monkeypatch.setattr(opening, "cores", lambda: cores)
    graphs = open_graphs(path, ",".join(["cpu"] * copies), Acceleration())
    assert [g.threads for g in graphs] == [threads] * copies
    assert open_graphs(path, "cpu,cpu", Acceleration(threads=7))[1].threads == 7


def test_a_device_asked_for_is_an_error_if_it_is_not_there(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """F36, B52."""
    monkeypatch.delenv("MASKLINE_DEVICE_FALLBACK", raising=False)
    for device in ("gpu:0", "npu", "mlu:1", "cpu,gpu:0"):
        with pytest.raises(
            DeviceError, match="is not available: ONNX Runtime has cpu here; .*MASKLINE_DEVICE_FALLBACK=1"
        ):
            open_graphs(path, device, Acceleration())
    with pytest.raises(DeviceError, match="'gpu:1'"):
        open_graphs(path, None, Acceleration(device="gpu:1"))
    assert open_graphs(path, "cpu", Acceleration(device="gpu:1"))[0].device == CPU
    assert caplog.text == ""


def test_the_processor_stands_in_if_the_environment_asks_for_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """B52: with a warning, and under its own name."""
    monkeypatch.setenv("MASKLINE_DEVICE_FALLBACK", "1")
    graphs = open_graphs(path, "gpu:0,1", Acceleration())
    assert [graph.device for graph in graphs] == [CPU]
    assert len(warnings(caplog)) == 1 and "'gpu:0' is not available" in caplog.text and "using the CPU" in caplog.text


def test_the_processor_stands_in_where_the_options_allow_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the backend that was named, if that has the processor; and the environment has the last word."""
    monkeypatch.delenv("MASKLINE_DEVICE_FALLBACK", raising=False)
    for options in (Acceleration(cpu_fallback=True), replace(OPENVINO, cpu_fallback=True)):
        device = "xpu" if options.backend else "gpu:0"
        (graph,) = open_graphs(path, device, options)
        assert graph.device == CPU and graph.backend == (options.backend or "onnxruntime")
        assert len(warnings(caplog)) == 1 and f"'{parse_devices(device)[0]}' is not available" in caplog.text
        caplog.clear()
    monkeypatch.setenv("MASKLINE_DEVICE_FALLBACK", "0")
    with pytest.raises(DeviceError, match="'gpu:0' is not available"):
        open_graphs(path, "gpu:0", Acceleration(cpu_fallback=True))


def test_a_gpu_in_name_only(gpu_in_name_only: None, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F12, B52: an error if it was asked for, else a warning and the processor."""
    with pytest.raises(DeviceError, match="'gpu:0' is not available: ONNX Runtime could not start CUDA"):
        open_graphs(path, "gpu:0", Acceleration())
    assert open_graphs(path, None, Acceleration())[0].device == CPU
    assert len(warnings(caplog)) == 1 and "using the CPU" in caplog.text


def test_the_default_device_is_one_that_the_backend_can_use(
    gpu_in_name_only: None, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_graphs(path, None, Acceleration("openvino"))[0].device == CPU
    assert caplog.text == ""


@pytest.mark.parametrize("backend", ["tensorrt", "om"])
def test_a_backend_that_can_not_be_used(backend: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F52: a warning and the default, or an error where nothing else is wanted."""
    graph = open_graph(path, CPU, Acceleration(backend, strict=False))
    assert graph.backend == "onnxruntime"
    assert len(warnings(caplog)) == 1 and "can't use device 'cpu'" in caplog.text and "ONNX Runtime" in caplog.text
    with pytest.raises(ParameterError, match="can't use device 'cpu'"):
        open_graph(path, CPU, Acceleration(backend))


def test_openvino_that_is_not_installed(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert open_graph(path, CPU, OPENVINO).backend == "onnxruntime"
    assert len(warnings(caplog)) == 1 and "pip install 'maskline[openvino]'" in caplog.text
    with pytest.raises(MissingDependencyError):
        open_graph(path, CPU, replace(OPENVINO, strict=True))


def test_a_damaged_file_is_not_a_fault_of_the_backend(path: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "inference.onnx"
    damaged.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="can't be opened .*export the model again"):
        open_graph(damaged, CPU, OPENVINO)


def test_the_best_backend_is_the_one_measured(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """F52, B53: OpenVINO only for models that it was measured to be faster for, and only if it is installed."""
    monkeypatch.setattr(opening, "FASTER_BY_OPENVINO", ())
    assert open_graph(path, CPU, BEST).backend == "onnxruntime"
    monkeypatch.setattr(opening, "FASTER_BY_OPENVINO", ("Mask-RT-DETR-S",))
    assert open_graph(path, CPU, BEST).backend == "openvino"
    assert open_graph(path, CPU, Acceleration()).backend == "onnxruntime"
    monkeypatch.setattr(opening, "find_spec", lambda _: None)
    assert open_graph(path, CPU, BEST).backend == "onnxruntime"
    assert caplog.text == ""


def test_less_precision_takes_a_backend_that_has_it(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    less = open_graph(path, CPU, replace(BEST, precision="bf16"))
    assert less.backend == "openvino"
    assert bool(caplog.text) == (less.precision != "bf16")  # there are processors without; then that is reported
    graph = open_graph(path, CPU, Acceleration("onnxruntime", strict=False, precision="fp16"))
    assert graph.precision == "fp32" and "can't compute in fp16" in caplog.text


def test_models_said_to_be_faster_exist() -> None:
    for name in opening.FASTER_BY_OPENVINO:
        assert catalog.get(name).name == name
