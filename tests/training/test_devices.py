"""Where to train: the same texts as where to predict."""

from __future__ import annotations

import pytest
import torch

from maskline.errors import DeviceError, ParameterError
from maskline.runtime.device import PROVIDERS
from maskline.training import devices, processes
from maskline.training.devices import KINDS, Devices, choose, resolve


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: 4 if kind == "cuda" else 0)


def test_every_kind_has_a_name_in_torch() -> None:
    """F36."""
    assert set(KINDS) == set(PROVIDERS)


@pytest.mark.parametrize(
    ("text", "processes", "chosen"),
    [
        ("cpu", 1, Devices("cpu", 1)),
        ("CPU", 3, Devices("cpu", 3)),
        ("cpu,cpu", 1, Devices("cpu", 2)),
        ("GPU", 1, Devices("cuda", 1, (0,), "CUDA_VISIBLE_DEVICES")),
        ("cuda:3", 1, Devices("cuda", 1, (3,), "CUDA_VISIBLE_DEVICES")),
        ("gpu:0,2,3", 1, Devices("cuda", 3, (0, 2, 3), "CUDA_VISIBLE_DEVICES")),
        ("gpu:1,2", 2, Devices("cuda", 2, (1, 2), "CUDA_VISIBLE_DEVICES")),
        ("dcu:1", 1, Devices("cuda", 1, (1,), "HIP_VISIBLE_DEVICES")),
    ],
)
def test_what_is_meant(text: str, processes: int, chosen: Devices, four_gpus: None) -> None:
    assert choose(text, processes) == chosen


@pytest.mark.parametrize(
    ("text", "processes", "error", "expected"),
    [
        ("gpu:0,cpu", 1, ParameterError, "training takes devices of one kind"),
        ("gpu:0,1", 3, ParameterError, "processes is 3, but there are 2 devices"),
        ("gpu:0", 2, ParameterError, "processes is 2, but there is 1 device: expected one process per device"),
        ("cpu,cpu", 3, ParameterError, "processes is 3"),
        ("gpu:1,1", 1, ParameterError, "each device may be given once"),
        ("gpu:a", 1, ParameterError, "an integer"),
        ("tpu", 1, ParameterError, "unknown device 'tpu'"),
        ("gpu:4", 1, DeviceError, "device 'gpu:4' is not available: torch has gpu:0,1,2,3 here"),
        ("gpu:2,4", 1, DeviceError, "device 'gpu:4' is not available"),
        ("mlu", 1, DeviceError, "device 'mlu:0' is not available: torch has cpu, cuda here; .*FALLBACK=1"),
    ],
)
def test_what_can_not_be(text: str, processes: int, error: type[Exception], expected: str, four_gpus: None) -> None:
    with pytest.raises(error, match=expected):
        choose(text, processes)


def test_the_processor_stands_in_for_a_kind_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the environment says, or PaddleX's own forms; but never for one number of several."""
    monkeypatch.delenv("MASKLINE_DEVICE_FALLBACK", raising=False)
    monkeypatch.setattr(devices, "_count", lambda kind: 0)
    assert resolve("gpu:0,1,2,3", cpu_fallback=True) == "cpu"
    assert resolve("cpu,cpu", cpu_fallback=True) == "cpu,cpu" and resolve("cpu") == "cpu"
    with pytest.raises(DeviceError, match="device 'gpu:0' is not available: torch has cpu here"):
        choose("gpu:0,1", 1)
    monkeypatch.setenv("MASKLINE_DEVICE_FALLBACK", "1")
    assert choose("gpu:0,1", 1) == Devices("cpu", 1)
    assert [message.endswith("; using the CPU") for message in caplog.messages] == [True, True]
    monkeypatch.setattr(devices, "_count", lambda kind: 1 if kind == "cuda" else 0)
    with pytest.raises(DeviceError, match="torch has gpu:0 here; choose among these"):
        choose("gpu:0,1", 1)


@pytest.mark.parametrize(
    ("device", "build", "expected"),
    [
        ("gpu:0", {}, "install a build of torch for it, see docs/gpu.md"),
        ("gpu:0", {"cuda": "13.0"}, r"is its driver installed\? see docs/gpu.md"),
        ("dcu:0", {"hip": "7.0"}, "is its driver installed"),
        ("xpu:0", {"cuda": "13.0"}, "install a build of torch"),
        ("xpu:0", {"xpu": "2025"}, "is its driver installed"),
        ("npu:0", {"cuda": "13.0"}, "install a build of torch"),
    ],
)
def test_what_to_install_depends_on_the_build(
    device: str, build: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: 0)
    for name in ("cuda", "hip", "xpu"):
        monkeypatch.setattr(torch.version, name, build.get(name))
    with pytest.raises(DeviceError, match=f"device '{device}' is not available: torch has cpu here; {expected}"):
        resolve(device)


def test_by_default_the_first_gpu_else_the_processor(four_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """F12."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose(None, 1) == Devices("cpu", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose(None, 1).numbers == (0,)


@pytest.mark.parametrize("threads", [1, 3, None])
def test_threads_of_the_only_process(threads: int | None) -> None:
    """For the run alone: the program's own stay."""
    before, seen = torch.get_num_threads(), list[int]()
    processes.run(lambda _: seen.append(torch.get_num_threads()), "job", 1, threads)
    assert seen == [threads or before] and torch.get_num_threads() == before
