"""What people write about acceleration, and what it means here."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from maskline.errors import ParameterError, UnknownNameError
from maskline.runtime.acceleration import parse_acceleration
from maskline.runtime.backend import Acceleration


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASKLINE_THREADS", "PADDLE_PDX_CPU_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, Acceleration()),
        ({"use_hpip": False}, Acceleration()),
        ({"use_hpip": True}, Acceleration(best=True, strict=False)),
        ({"engine": "hpi"}, Acceleration(best=True, strict=False)),
        ({"use_hpip": True, "hpi_config": {"backend": "openvino"}}, Acceleration("openvino", strict=False)),
        (
            {"use_hpip": True, "hpi_config": {"auto_config": False, "backend": "tensorrt"}},
            Acceleration("tensorrt", strict=True),
        ),
        (
            {"use_hpip": True, "hpi_config": {"device_type": "gpu", "device_id": 1, "auto_paddle2onnx": False}},
            Acceleration(best=True, strict=False, device="gpu:1"),
        ),
        ({"use_hpip": True, "hpi_config": {"device_type": "cpu"}}, Acceleration(best=True, strict=False, device="cpu")),
        (
            {"engine": "hpi", "hpi_config": {"backend": "openvino"}, "engine_config": {"auto_config": False}},
            Acceleration("openvino", strict=True),
        ),
        ({"engine": "onnxruntime"}, Acceleration("onnxruntime")),
        (
            {"engine": "openvino", "engine_config": {"precision": "BF16", "cache_dir": "there"}},
            Acceleration("openvino", precision="bf16", cache_dir=Path("there")),
        ),
        ({"engine_config": {"cpu_threads": 3}}, Acceleration(threads=3)),
        ({"use_hpip": True, "engine_config": {"cpu_num_threads": 3}}, Acceleration(best=True, strict=False, threads=3)),
        (
            {"engine": "openvino", "engine_config": {"openvino": {"cpu_num_threads": 2}, "onnxruntime": {}}},
            Acceleration("openvino", threads=2),
        ),
        ({"engine": "onnxruntime", "engine_config": {"openvino": {"cpu_num_threads": 2}}}, Acceleration("onnxruntime")),
        ({"threads": 4, "engine_config": {"cpu_num_threads": 2}}, Acceleration(threads=4)),
    ],
)
def test_what_is_meant(given: dict[str, Any], chosen: Acceleration, caplog: pytest.LogCaptureFixture) -> None:
    """F52, B55: PaddleX's switches and keys; a plain choice gives no warning (B56)."""
    assert parse_acceleration(**given) == chosen
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("shapes", "chosen"),
    [
        (
            [[1, 640, 640, 3], [4, 640, 640, 3], [8, 640, 640, 3]],
            ((1, 640, 640, 3), (4, 640, 640, 3), (8, 640, 640, 3)),
        ),
        ([[1, 3, 9, 8], [1, 3, 9, 8], [2, 3, 9, 10]], ((1, 9, 8, 3), (1, 9, 8, 3), (2, 9, 10, 3))),
    ],
)
def test_dynamic_shapes(shapes: Any, chosen: Any) -> None:
    """As our graphs have them, and as Paddle programs do; their other inputs don't count."""
    config = {"dynamic_shapes": {"image": shapes, "im_shape": [[1, 2], [1, 2], [8, 2]]}}
    assert parse_acceleration(engine="tensorrt", engine_config=config).shapes == chosen
    assert parse_acceleration(engine="tensorrt", engine_config=config | {"use_dynamic_shapes": False}).shapes is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine": "onnxrun"}, "unknown engine 'onnxrun': did you mean 'onnxruntime'"),
        ({"engine": "transformers"}, "known: onnxruntime, openvino, tensorrt, om, hpi, paddle"),
        (
            {"use_hpip": True, "hpi_config": {"backnd": "openvino"}},
            "unknown key 'backnd' in hpi_config: did you mean 'backend'",
        ),
        ({"hpi_config": {"backnd": "openvino"}}, "did you mean 'backend'"),
        ({"use_hpip": True, "hpi_config": {"backend": "openvno"}}, "did you mean 'openvino'"),
        ({"use_hpip": True, "hpi_config": {"auto_config": False}}, "auto_config false but no backend: name one of"),
        ({"use_hpip": True, "hpi_config": {"auto_config": "no"}}, "auto_config of hpi_config is 'no': expected true"),
        ({"use_hpip": True, "hpi_config": {"backend_config": {"cpu_num_thread": 1}}}, "did you mean 'cpu_num_threads'"),
        ({"use_hpip": True, "hpi_config": {"backend_config": 3}}, "backend_config of hpi_config is 3: expected keys"),
        ({"use_hpip": True, "hpi_config": {"device_type": "cpu", "device_id": 0}}, "the CPU has no number"),
        ({"hpi_config": "fast"}, "hpi_config is 'fast': expected keys and values"),
        ({"engine": "openvino", "engine_config": {"precision": "fp8"}}, "unknown precision 'fp8' in engine_config"),
        ({"engine": "openvino", "engine_config": {"cache_dir": 3}}, "cache_dir in engine_config is 3"),
        ({"engine": "openvino", "engine_config": {"run_mode": "paddle"}}, "unknown key 'run_mode' in engine_config"),
        (
            {"engine_config": {"openvino": {}, "precision": "fp32"}},
            r"mixes engines \(openvino\) and options \(precision",
        ),
        ({"use_hpip": "False"}, "use_hpip is 'False': expected True or False"),
        ({"threads": 0}, "threads is 0: expected an integer from 1"),
        ({"engine_config": {"cpu_threads": "2"}}, "cpu_threads in engine_config is '2'"),
        ({"engine_config": {"dynamic_shapes": {"image": [[1, 3, 9, 9]]}}}, "minimum, typical and maximum"),
        ({"engine_config": {"dynamic_shapes": {"image": [[1, 9, 9, 4]] * 3}}}, "expected batch, height, width, 3"),
        ({"engine_config": {"dynamic_shapes": {"image": [5, 5, 5]}}}, "expected batch, height, width, 3"),
        (
            {"engine_config": {"dynamic_shapes": {"image": [[2, 9, 9, 3], [1, 9, 9, 3], [2, 9, 9, 3]]}}},
            "ascending order",
        ),
    ],
)
def test_invalid_combinations(given: dict[str, Any], message: str) -> None:
    """F52, B25: nothing is swallowed."""
    with pytest.raises(ParameterError, match=message):
        parse_acceleration(**given)


def test_an_unknown_engine_is_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError):
        parse_acceleration(engine="flexible")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine": "paddle"}, "engine 'paddle' is for Paddle programs: using ONNX Runtime instead"),
        (
            {"engine": "paddle_static", "engine_config": {"run_mode": "mkldnn"}},
            "using ONNX Runtime instead, ignoring run_mode",
        ),
        ({"use_hpip": True, "hpi_config": {"backend": "paddle"}}, "backend 'paddle' is for Paddle programs"),
        ({"use_hpip": True, "engine": "openvino"}, "use_hpip has no effect: engine 'openvino' takes precedence"),
        ({"hpi_config": {"backend": "openvino"}}, "hpi_config has no effect without use_hpip"),
    ],
)
def test_one_warning_where_something_has_no_effect(
    given: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """B56: one line, and only where it matters."""
    chosen = parse_acceleration(**given)
    assert chosen.backend == (given.get("engine") if given.get("engine") == "openvino" else None) and not chosen.best
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert message in caplog.text


def test_threads_of_paddle_count() -> None:
    assert parse_acceleration(engine="paddle", engine_config={"cpu_threads": 5}).threads == 5


def test_threads_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_PDX_CPU_NUM_THREADS", "7")
    assert parse_acceleration().threads == 7
    monkeypatch.setenv("MASKLINE_THREADS", "3")
    assert parse_acceleration().threads == 3
    assert parse_acceleration(engine_config={"cpu_threads": 2}).threads == 2
    assert parse_acceleration(threads=1).threads == 1
    monkeypatch.setenv("MASKLINE_THREADS", "many")
    with pytest.raises(ParameterError, match="MASKLINE_THREADS is 'many': expected an integer"):
        parse_acceleration()
