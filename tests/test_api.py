"""`create_model` and `create_pipeline`: devices, acceleration, and what PaddleX's documents pass."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixtures.spies import keeping

import maskline
from maskline import Predictor, Result, create_model, create_pipeline
from maskline.errors import DeviceError, InputError, ParameterError, UnknownNameError
from maskline.inputs import read_image
from maskline.runtime import opening, predictor
from maskline.runtime.graph import Graph
from maskline.runtime.opening import open_graphs

PHOTO = read_image(Path(maskline.__file__).with_name("assets") / "fruit.jpg")


def pipeline_config(model_dir: Path, **keys: Any) -> dict[str, Any]:
    module = {"model_name": "Mask-RT-DETR-S", "model_dir": str(model_dir), "threshold": 0.3}
    return {"pipeline_name": "instance_segmentation", "SubModules": {"InstanceSegmentation": module}, **keys}


def photos(count: int) -> list[np.ndarray]:
    """All different, of three sizes."""
    return [np.ascontiguousarray(np.roll(PHOTO[: 300 + 20 * (i % 3)], 9 * i, axis=1)) for i in range(count)]


def assert_same(ours: Result, theirs: Result) -> None:
    np.testing.assert_array_equal(ours.instances.boxes, theirs.instances.boxes)
    np.testing.assert_array_equal(ours.instances.scores, theirs.instances.scores)
    for one, other in zip(ours.instances.masks, theirs.instances.masks, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def single(tiny_model_dir: Path) -> Predictor:
    return create_model(model_dir=tiny_model_dir, threshold=0.3, device="cpu", threads=1)


@pytest.fixture(scope="module")
def double(tiny_model_dir: Path) -> Predictor:
    return create_model(model_dir=tiny_model_dir, threshold=0.3, device="cpu,cpu", threads=1)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_two_devices_give_what_one_does_in_order(single: Predictor, double: Predictor, batch_size: int) -> None:
    """F37: a copy of the model on each device, results in the order of the input."""
    images = photos(13)
    expected = list(single.predict(images))
    found = list(double.predict(images, batch_size=batch_size))
    assert double.device == "cpu,cpu" and len(found) == 13 and any(len(r.instances) for r in found)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


def test_two_devices_report_faults_at_their_turn(double: Predictor, tmp_path: Path) -> None:
    """F37: what came before a bad input is predicted, as with one device."""
    (tmp_path / "bad.png").write_text("no image")
    sources = [*photos(3), tmp_path / "bad.png", *photos(2)]
    results = double.predict(sources, batch_size=2)
    assert [next(results) and 1 for _ in range(3)] == [1, 1, 1]
    with pytest.raises(InputError, match=r"bad\.png"):
        next(results)
    assert len(list(double.predict(sources, on_error="skip"))) == 5


def test_stopping_early_leaves_no_thread(double: Predictor) -> None:
    results = double.predict(photos(30))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("maskline")]


def test_a_device_for_one_call(single: Predictor) -> None:
    """F35, B24: honoured, also on a pipeline; kept for the next call until closed."""
    expected = list(single.predict(photos(4)))
    for _ in range(2):
        for ours, theirs in zip(single.predict(photos(4), device="cpu,cpu"), expected, strict=True):
            assert_same(ours, theirs)
    assert [device for device, _ in single._others] == ["cpu,cpu"] and single.device == "cpu"
    assert len(list(single.predict(photos(1), device="CPU"))) == 1 and len(single._others) == 1
    single.close()
    assert single._others == {} and len(list(single.predict(photos(1)))) == 1


def test_a_pipelines_call_takes_a_device_too(tiny_model_dir: Path) -> None:
    """F35, B24."""
    pipeline = create_pipeline(config=pipeline_config(tiny_model_dir), device="cpu")
    assert len(list(pipeline.predict(photos(3), device="cpu,cpu", batch_size=2))) == 3
    with pytest.raises(DeviceError, match="'npu:0' is not available"):
        pipeline.predict(photos(1), device="npu:0")


def test_a_device_that_is_not_there_is_reported_at_once(tiny_model_dir: Path) -> None:
    """F36, B51: recognised, and the message says what is here."""
    for device in ("gpu:0", "npu:0", "xpu:0", "mlu:0", "dcu:0", "gcu", "iluvatar_gpu:1", "metax_gpu", "mps"):
        with pytest.raises(DeviceError, match=r"is not available: (ONNX Runtime|OpenVINO) has cpu.* here; "):
            create_model(model_dir=tiny_model_dir, device=device)


@pytest.mark.parametrize(
    "options",
    [
        {"use_hpip": True},
        {"use_hpip": False},
        {"use_hpip": True, "hpi_config": {"auto_config": False, "backend": "openvino"}},
        {"engine": "openvino", "engine_config": {"cpu_num_threads": 1}},
        {"engine": "onnxruntime"},
    ],
)
def test_acceleration_changes_no_result(
    options: dict[str, Any], single: Predictor, tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """F13, F52, B55: the same instances with it as without, within rounding."""
    model = create_model(model_dir=tiny_model_dir, threshold=0.3, device="cpu", **options)
    assert model.backend == ("openvino" if "openvino" in str(options) else "onnxruntime") and model.precision == "fp32"
    for ours, theirs in zip(model.predict(photos(2)), single.predict(photos(2)), strict=True):
        assert len(ours.instances) == len(theirs.instances) > 0
        np.testing.assert_allclose(ours.instances.scores, theirs.instances.scores, atol=5e-4)
        np.testing.assert_allclose(ours.instances.boxes, theirs.instances.boxes, atol=0.05)
        for i in range(len(ours.instances)):
            a, b = ours.instances.full_mask(i), theirs.instances.full_mask(i)
            assert (a != b).sum() <= max(4, 0.01 * b.sum())
    assert caplog.text == ""


def test_the_fastest_backend_for_one_call(single: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """F13: a line of the documents' table for `predict`. False is the default there, so it changes nothing."""
    monkeypatch.setattr(opening, "FASTER_BY_OPENVINO", (single.model_name,))
    (photo,) = photos(1)
    opened: list[Sequence[Graph]] = []
    monkeypatch.setattr(predictor, "open_graphs", keeping(opened, open_graphs))
    plain, fast, again, off = (next(single.predict(photo, use_hpip=u)) for u in (None, True, True, False))
    assert [graph.backend for graphs in opened for graph in graphs] == ["openvino"]  # once
    for found in (fast, again, off):
        np.testing.assert_allclose(found.instances.scores, plain.instances.scores, atol=5e-4)
    np.testing.assert_array_equal(off.instances.scores, plain.instances.scores)
    with pytest.raises(ParameterError, match="use_hpip is 1"):
        single.predict(photo, use_hpip=1)  # type: ignore[arg-type]
    single.close()


def test_a_device_of_the_file_that_is_not_there(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """B52: the CPU, with a warning; an argument is a wish of one's own, and an error unless it may fall back."""
    monkeypatch.delenv("MASKLINE_DEVICE_FALLBACK", raising=False)
    old = {"Pipeline": {"model": str(tiny_model_dir), "device": "gpu:0"}}
    assert create_pipeline(config=old).device == "cpu"
    assert len(caplog.messages) == 1 and caplog.messages[0].endswith("; using the CPU")
    with pytest.raises(DeviceError, match="'gpu:1'.*MASKLINE_DEVICE_FALLBACK=1"):
        create_pipeline(config=old, device="gpu:1")
    assert create_pipeline(config=old, device="gpu:1", cpu_fallback=True).device == "cpu"
    assert create_model(model_dir=tiny_model_dir, device="gpu:1", cpu_fallback=True).device == "cpu"
    monkeypatch.setenv("MASKLINE_DEVICE_FALLBACK", "0")
    with pytest.raises(DeviceError):
        create_pipeline(config=old)


@pytest.mark.parametrize(("pipeline", "warnings"), [(None, 0), ("instance_segmentation", 0), ("other.yaml", 1)])
def test_a_configuration_and_a_name(
    pipeline: str | None, warnings: int, tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """F11: a warning, which names both, only where they differ."""
    create_pipeline(pipeline, config=pipeline_config(tiny_model_dir))
    assert len(caplog.messages) == warnings
    assert all("'other.yaml'" in line and "'instance_segmentation'" in line for line in caplog.messages)


def test_a_pipelines_file_says_what_to_run_and_arguments_win(tiny_model_dir: Path) -> None:
    """F52: the switches of the documents' YAML."""
    config = pipeline_config(tiny_model_dir, use_hpip=True, hpi_config={"backend": "openvino"})
    assert create_pipeline(config=config).backend == "openvino"
    assert create_pipeline(config=config, hpi_config={"backend": "onnxruntime"}).backend == "onnxruntime"
    own = pipeline_config(tiny_model_dir, engine="openvino", engine_config={"cpu_threads": 1})
    assert create_pipeline(config=own).backend == "openvino"
    assert create_pipeline(config=own, engine="onnxruntime").backend == "onnxruntime"
    with pytest.raises(UnknownNameError, match="did you mean 'backend'"):
        create_pipeline(config=config, hpi_config={"bakend": "openvino"})


def test_arguments_of_old_documents_are_ignored_with_one_warning(
    tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """F52, B56: accepted where PaddleX had a licence; others are a TypeError (B25)."""
    config = pipeline_config(tiny_model_dir)
    create_pipeline(config=config, hpi_params={"config": {}}, serial_number="x", update_license=True, pp_option=None)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "hpi_params, serial_number, update_license: Paddle only, ignored" in caplog.text
    for create in (create_pipeline, create_model):
        with pytest.raises(TypeError, match="unexpected keyword"):
            create(layout_nms=True)  # type: ignore[call-arg]


def test_defaults_give_no_warning(tiny_model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """B56: no warning for a batch, or for what is the default anyway."""
    model = create_model(model_dir=tiny_model_dir, batch_size=4, device="cpu", use_hpip=False)
    list(model.predict(photos(3)))
    create_pipeline(config=pipeline_config(tiny_model_dir, use_hpip=False, hpi_config=None), update_license=False)
    assert caplog.text == ""


def test_a_model_is_known_from_its_directory(tiny_model_dir: Path) -> None:
    """B57."""
    assert create_model(model_dir=tiny_model_dir).model_name == "Mask-RT-DETR-S"


def test_a_file_with_one_image_a_run_takes_batches_too(single: Predictor, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Graphs for small devices have all sizes fixed."""
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    path = tmp_path / "model" / "inference.onnx"
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    onnx.save(model, path)
    for engine in ("onnxruntime", "openvino"):
        found = list(create_model(model_dir=path, threshold=0.3, engine=engine).predict(photos(5), batch_size=3))
        for ours, theirs in zip(found, single.predict(photos(5)), strict=True):
            np.testing.assert_allclose(ours.instances.scores, theirs.instances.scores, atol=5e-4)


@pytest.mark.parametrize(("given", "message"), [({"threads": 0}, "threads is 0"), ({"use_hpip": 1}, "use_hpip is 1")])
def test_bad_values_are_reported(given: dict[str, Any], message: str, tiny_model_dir: Path) -> None:
    with pytest.raises(ParameterError, match=message):
        create_model(model_dir=tiny_model_dir, **given)


@pytest.mark.parametrize("name", ["single", "double"])
def test_a_source_is_closed_with_the_results(name: str, request: pytest.FixtureRequest) -> None:
    """A camera, a file: also when the caller stops early."""
    closed = []

    def source() -> Iterator[np.ndarray]:
        try:
            yield from photos(20)
        finally:
            closed.append(True)

    results = request.getfixturevalue(name).predict(source())
    next(results)
    assert closed == []
    results.close()
    assert closed == [True]
