"""Where to train: the same texts as where to predict."""

from __future__ import annotations

import pytest
import torch

from maskline.errors import DeviceError, ParameterError
from maskline.runtime.device import PROVIDERS
from maskline.train import devices
from maskline.train.devices import KINDS, Devices, choose


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
    ("text", "processes", "error", "told"),
    [
        ("gpu:0,cpu", 1, ParameterError, "training takes one kind"),
        ("gpu:0,1", 3, ParameterError, "processes is 3, but gpu:0,1 is 2 devices"),
        ("gpu:0", 2, ParameterError, "processes is 2, but gpu:0 is 1 devices"),
        ("cpu,cpu", 3, ParameterError, "processes is 3"),
        ("gpu:1,1", 1, ParameterError, "each can be named once only"),
        ("gpu:a", 1, ParameterError, "a whole number"),
        ("tpu", 1, ParameterError, "unknown device 'tpu'"),
        ("gpu:4", 1, DeviceError, "torch sees 4 of these here"),
        ("mlu", 1, DeviceError, "torch sees 0 of these here"),
    ],
)
def test_what_can_not_be(text: str, processes: int, error: type[Exception], told: str, four_gpus: None) -> None:
    with pytest.raises(error, match=told):
        choose(text, processes)


def test_by_default_the_first_gpu_else_the_processor(four_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """F12."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose(None, 1) == Devices("cpu", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose(None, 1).numbers == (0,)
