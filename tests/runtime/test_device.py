"""Device texts and what this installation can use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskline.errors import DeviceError, ParameterError, UnknownNameError
from maskline.runtime.device import CPU, PROVIDERS, Device, available, device_text, may_fall_back, parse_devices


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
    """F36, F37: every kind of PaddleX, in any case, alone and in lists."""
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
    ("text", "message"),
    [
        ("cpu:0", "the CPU has no number"),
        ("gpu:a", "an integer"),
        ("gpu:", "an integer"),
        ("gpu:0:1", "an integer"),
        ("gpu:-1", "an integer"),
        ("gpu:²", "an integer"),
        ("", "expected kinds and numbers"),
        ("0,1", "expected kinds and numbers"),
        ("gpu:0,", "expected kinds and numbers"),
        ("cpu,1", "expected kinds and numbers"),
    ],
)
def test_bad_device_texts(text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse_devices(text)


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'gpu'"):
        parse_devices("gpuu")
    with pytest.raises(ParameterError, match="expected a string"):
        parse_devices(0)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [False, True])
@pytest.mark.parametrize(
    ("ours", "paddlex", "may"),
    [
        (None, None, None),
        ("", None, None),
        ("0", None, False),
        ("1", None, True),
        ("True", "1", True),
        (None, "True", False),
        (None, "0", None),
    ],
)
def test_falling_back_is_as_the_environment_says_else_as_the_form_does(
    ours: str | None, paddlex: str | None, may: bool | None, form: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None: as the form of the command has it."""
    for name, value in (("MASKLINE_DEVICE_FALLBACK", ours), ("PADDLE_PDX_DISABLE_DEVICE_FALLBACK", paddlex)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert may_fall_back(form) == (form if may is None else may)


def test_one_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    """B52: reported in one way, whatever lacks it, with what to do; or the CPU in its place, under its own name."""

    def problem(device: Device) -> str | None:
        return f"'{device}' has burnt" if device.index else None

    assert available((Device("gpu", 0), CPU), problem, cpu_fallback=False) == (Device("gpu", 0), CPU)
    with pytest.raises(
        DeviceError, match="^'gpu:1' has burnt; or run on the CPU: device cpu, or MASKLINE_DEVICE_FALLBACK=1$"
    ):
        available((CPU, Device("gpu", 1)), problem, cpu_fallback=False)
    assert caplog.messages == []
    assert available((Device("gpu", 0), Device("gpu", 1), Device("gpu", 2)), problem, cpu_fallback=True) == (CPU,)
    assert caplog.messages == ["'gpu:1' has burnt; using the CPU"]
