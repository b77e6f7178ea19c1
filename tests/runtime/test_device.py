"""Device texts and what this installation can use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskline.errors import DeviceError, ParameterError, UnknownNameError
from maskline.runtime.device import (
    CPU,
    PROVIDERS,
    Device,
    default_device,
    device_text,
    may_fall_back,
    parse_devices,
    provider_of,
)


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("cpu", (CPU,)),
        (" CPU ", (CPU,)),
        ("gpu", (Device("gpu", 0),)),
        ("GPU:3", (Device("gpu", 3),)),
        ("cuda:1", (Device("gpu", 1),)),
        ("rocm", (Device("gpu", 0),)),
        ("dcu", (Device("dcu", 0),)),
        ("npu:2", (Device("npu", 2),)),
        ("xpu", (Device("xpu", 0),)),
        ("iluvatar_gpu:1", (Device("iluvatar_gpu", 1),)),
        ("metax_gpu", (Device("metax_gpu", 0),)),
        ("gpu:0,1", (Device("gpu", 0), Device("gpu", 1))),
        ("gpu:0, 2 ,cpu", (Device("gpu", 0), Device("gpu", 2), CPU)),
        ("gpu:1,npu:0,1", (Device("gpu", 1), Device("npu", 0), Device("npu", 1))),
        ("cpu,cpu", (CPU, CPU)),
    ],
)
def test_device_texts(text: str, devices: tuple[Device, ...]) -> None:
    """F36, F37: every kind of the reference, in any case, alone and in lists."""
    assert parse_devices(text) == devices
    assert parse_devices(device_text(devices)) == devices


@given(
    st.lists(st.sampled_from([CPU, *(Device(k, n) for k in PROVIDERS if k != "cpu" for n in (0, 1, 12))]), min_size=1)
)
def test_texts_of_devices_are_read_back(devices: list[Device]) -> None:
    assert parse_devices(device_text(devices)) == tuple(devices)


def test_numbers_of_one_kind_are_listed_once() -> None:
    assert device_text(parse_devices("cuda:0,cuda:1,cpu,cpu")) == "gpu:0,1,cpu,cpu"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cpu:0", "the CPU has no number"),
        ("gpu:a", "a whole number"),
        ("gpu:", "a whole number"),
        ("gpu:0:1", "a whole number"),
        ("gpu:-1", "a whole number"),
        ("gpu:²", "a whole number"),
        ("", "expected kinds and numbers"),
        ("0,1", "expected kinds and numbers"),
        ("gpu:0,", "expected kinds and numbers"),
        ("cpu,1", "expected kinds and numbers"),
    ],
)
def test_bad_device_texts(text: str, told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        parse_devices(text)


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'gpu'"):
        parse_devices("gpuu")
    with pytest.raises(ParameterError, match="expected a text"):
        parse_devices(0)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [kind for kind in PROVIDERS if kind != "cpu"])
def test_a_device_that_is_not_there_is_an_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """F36, B51, B52: known by name, and told what there is."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert default_device() == CPU
    remedy = "install the ONNX Runtime build" if PROVIDERS[kind] else "none is built for that"
    with pytest.raises(DeviceError, match=f"'{kind}:0' is not available: this ONNX Runtime has cpu; .*{remedy}"):
        provider_of(Device(kind, 0))


def test_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """F12: a GPU that this ONNX Runtime is built for is the default."""
    providers = ["MIGraphXExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    assert default_device() == Device("gpu", 0)
    assert provider_of(CPU) == "CPUExecutionProvider"
    assert provider_of(Device("gpu", 1)) == "CUDAExecutionProvider"
    assert provider_of(Device("dcu", 1)) == "MIGraphXExecutionProvider"


@pytest.mark.parametrize(("value", "may"), [(None, False), ("", False), ("0", False), ("1", True), ("True", True)])
def test_falling_back_is_asked_for(value: str | None, may: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKLINE_DEVICE_FALLBACK", raising=False)
    if value is not None:
        monkeypatch.setenv("MASKLINE_DEVICE_FALLBACK", value)
    assert may_fall_back() == may
