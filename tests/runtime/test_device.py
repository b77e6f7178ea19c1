"""Device texts and what this installation can use."""

from __future__ import annotations

import pytest

from maskline.errors import DeviceError, ParameterError, UnknownNameError
from maskline.runtime.device import Device, choose_device, parse_device


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("cpu", Device("cpu")),
        ("CPU", Device("cpu")),
        ("gpu", Device("gpu", 0)),
        ("gpu:3", Device("gpu", 3)),
        ("cuda:1", Device("gpu", 1)),
        ("dcu", Device("gpu", 0)),
        ("npu:2", Device("npu", 2)),
        ("xpu", Device("xpu", 0)),
    ],
)
def test_device_texts(text: str, device: Device) -> None:
    assert parse_device(text) == device
    assert parse_device(str(device)) == device


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cpu:0", "the CPU has no number"),
        ("gpu:a", "one whole number"),
        ("gpu:", "one whole number"),
        ("gpu:0:1", "one whole number"),
        ("gpu:-1", "one whole number"),
    ],
)
def test_bad_device_texts(text: str, told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        parse_device(text)


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'gpu'"):
        parse_device("gpuu")
    with pytest.raises(ParameterError, match="expected a text"):
        parse_device(0)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert choose_device(None) == Device("cpu")
    with pytest.raises(DeviceError, match="'gpu:0' is not available: this ONNX Runtime has cpu"):
        choose_device("gpu:0")


def test_a_gpu_that_is_there_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    assert choose_device(None) == Device("gpu", 0)
    assert choose_device("cpu") == Device("cpu")
