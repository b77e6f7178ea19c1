"""What runs a model file: ONNX Runtime and OpenVINO give the same; what can't be opened or used is reported."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest

from maskline import hub
from maskline.errors import DeviceError, MissingDependencyError, ModelError, ParameterError
from maskline.exporting import verify
from maskline.inputs import read_image
from maskline.runtime.backend import Acceleration, first_line
from maskline.runtime.device import CPU, Device
from maskline.runtime.graph import RECORD_KEY, Graph, Raw
from maskline.runtime.onnxruntime_backend import OnnxRuntime
from maskline.runtime.openvino_backend import library, metadata

openvino = library()
OPENVINO = Acceleration(backend="openvino", threads=1)
ASSETS = hub.EMBEDDED.parent


@pytest.fixture(scope="module")
def graph_file(tiny_model_dir: Path) -> Path:
    return tiny_model_dir / "inference.onnx"


@pytest.fixture(scope="module")
def ir_file(graph_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in OpenVINO's form, as an exporter writes it."""
    path = tmp_path_factory.mktemp("ir") / "inference.xml"
    model = openvino.Core().read_model(graph_file)
    model.set_rt_info(Graph(graph_file, CPU).record.to_json(), [RECORD_KEY])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.fixture(scope="module")
def ort_file(graph_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in the form for small devices."""
    path = tmp_path_factory.mktemp("ort") / "inference.ort"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(str(graph_file), options, providers=["CPUExecutionProvider"])
    return path


def batch(graph: Graph) -> np.ndarray:
    photo = read_image(ASSETS / "fruit.jpg")
    return np.stack([graph.record.preprocess.apply(image)[0] for image in (photo, photo[::-1].copy())])


def assert_agree(ours: Raw, theirs: Raw) -> None:
    for i in range(len(ours.scores)):
        assert verify.compare(ours.image(i), theirs.image(i)) == ""


def test_both_give_the_same(graph_file: Path) -> None:
    """F52: with OpenVINO as without, within the tolerances of an export."""
    plain, fast = Graph(graph_file, CPU), Graph(graph_file, CPU, OPENVINO)
    assert (plain.backend, fast.backend, fast.precision, fast.record) == (
        "onnxruntime",
        "openvino",
        "fp32",
        plain.record,
    )
    images = batch(plain)
    assert_agree(fast.run(images), plain.run(images))
    assert_agree(fast.run(images[:1]), plain.run(images[:1]))  # another size after


def test_both_give_the_same_on_the_embedded_model() -> None:
    """F52: trained weights, a suppression that loops."""
    path = hub.EMBEDDED / "inference.onnx"
    plain, fast = Graph(path, CPU, Acceleration(threads=1)), Graph(path, CPU, OPENVINO)
    image, _ = plain.record.preprocess.apply(read_image(ASSETS / "nuclei.png"))
    expected = plain.run(image[None])
    assert (expected.scores > 0.3).sum() > 20
    assert_agree(fast.run(image[None]), expected)


@pytest.mark.parametrize("form", ["ir_file", "ort_file"])
def test_other_forms_give_the_same(form: str, graph_file: Path, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(form)
    plain, other = Graph(graph_file, CPU), Graph(path, CPU)
    assert other.record == plain.record
    assert other.backend == {"ir_file": "openvino", "ort_file": "onnxruntime"}[form]
    assert_agree(other.run(batch(plain)), plain.run(batch(plain)))


def test_several_threads_may_run_one_graph(graph_file: Path) -> None:
    plain, fast = Graph(graph_file, CPU), Graph(graph_file, CPU, OPENVINO)
    images = batch(plain)
    expected = [fast.run(images[i : i + 1]) for i in (0, 1)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: fast.run(images[i % 2 : i % 2 + 1]), range(16)))
    for i, raw in enumerate(found):
        for ours, theirs in zip(raw, expected[i % 2], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_results_stay_when_the_graph_runs_again(graph_file: Path) -> None:
    fast = Graph(graph_file, CPU, OPENVINO)
    images = batch(fast)
    first = fast.run(images[:1])
    kept = [array.copy() for array in first]
    fast.run(images[1:])
    for before, after in zip(kept, first, strict=True):
        np.testing.assert_array_equal(before, after)


def test_metadata_of_both_forms(graph_file: Path, ir_file: Path) -> None:
    core, text = openvino.Core(), Graph(graph_file, CPU).record.to_json()
    assert metadata(core.read_model(graph_file))[RECORD_KEY] == metadata(core.read_model(ir_file))[RECORD_KEY] == text


def test_files_that_openvino_can_not_use(graph_file: Path, ir_file: Path, ort_file: Path, tmp_path: Path) -> None:
    shutil.copy(ir_file, tmp_path / "inference.xml")
    with pytest.raises(ModelError, match="inference.xml can't be opened by OpenVINO") as caught:
        Graph(tmp_path / "inference.xml", CPU)  # its .bin is not there
    assert "\n" not in str(caught.value) and "Exception from" not in str(caught.value)
    with pytest.raises(ParameterError, match="OpenVINO can't open inference.ort: it opens .onnx and .xml"):
        Graph(ort_file, CPU, OPENVINO)
    with pytest.raises(ParameterError, match="ONNX Runtime can't open inference.xml"):
        Graph(ir_file, CPU, Acceleration(backend="onnxruntime"))
    openvino.save_model(openvino.Core().read_model(graph_file), tmp_path / "foreign.xml")
    openvino_ir = openvino.Core().read_model(tmp_path / "foreign.xml")
    assert RECORD_KEY in metadata(openvino_ir)  # what it was read from stays known


def test_a_failing_run_is_reported(graph_file: Path) -> None:
    graph = Graph(graph_file, CPU, OPENVINO)
    with pytest.raises(ModelError, match=r"failed on an input of shape \(1, 5, 5, 3\): Can't set the input") as caught:
        graph.run(np.zeros((1, 5, 5, 3), np.uint8))
    assert "\n" not in str(caught.value)
    assert len(graph.run(batch(graph)).scores) == 2


def test_signals_are_survived_after_graphs_have_come_and_gone(graph_file: Path) -> None:
    """Where each graph had a core of its own, SIGTERM was a segmentation fault by now."""
    program = f"""
import os, pathlib, signal
from maskline.runtime.backend import Acceleration
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph
from maskline.cli.signals import terminable

def opened():
    return Graph(pathlib.Path({str(graph_file)!r}), Device("cpu"), Acceleration(backend="openvino"))

a = opened()
b = opened()
del a
c = opened()
del b, c
with terminable():
    os.kill(os.getpid(), signal.SIGTERM)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 143


def test_without_openvino(graph_file: Path, ir_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for path, options in ((graph_file, OPENVINO), (ir_file, Acceleration())):
        with pytest.raises(MissingDependencyError, match=r"pip install 'maskline\[openvino\]'"):
            Graph(path, CPU, options)


@pytest.mark.parametrize(
    ("backend", "device", "precision", "message"),
    [
        ("tensorrt", CPU, "fp32", "TensorRT can't use device 'cpu': it runs on gpu"),
        ("openvino", Device("gpu", 0), "fp32", "OpenVINO can't use device 'gpu:0': it runs on cpu, xpu"),
        ("om", CPU, "fp32", "CANN can't use device 'cpu': it runs on npu"),
        ("onnxruntime", CPU, "fp16", "ONNX Runtime can't compute in fp16: it supports fp32"),
        ("tensorrt", Device("gpu", 0), "bf16", "TensorRT can't compute in bf16: it supports fp32, fp16"),
    ],
)
def test_what_a_backend_can_not(backend: str, device: Device, precision: str, message: str, graph_file: Path) -> None:
    with pytest.raises(ParameterError, match=message):
        Graph(graph_file, device, Acceleration(backend=backend, precision=precision))


def test_a_device_that_openvino_has_not(graph_file: Path) -> None:
    with pytest.raises(DeviceError, match="device 'xpu:7' is not available: OpenVINO has cpu.* here; .*docs/gpu.md"):
        Graph(graph_file, Device("xpu", 7), OPENVINO)


def test_precision_is_the_one_in_use(graph_file: Path, tmp_path: Path) -> None:
    """What the processor can't, OpenVINO replaces; the graph says what it got. A cache is kept where asked for."""
    options = Acceleration(backend="openvino", precision="bf16", cache_dir=tmp_path / "cache")
    graph = Graph(graph_file, CPU, options)
    assert graph.precision in ("bf16", "fp32")
    assert list((tmp_path / "cache").glob("*.blob"))
    assert graph.run(batch(graph)).boxes.dtype == np.float32


class Session:
    """Stands in for ONNX Runtime's, on devices that are not here."""

    made: ClassVar[list[Any]] = []
    start = True

    def __init__(self, path: str, options: Any, providers: list[Any], enable_fallback: int) -> None:
        Session.made.append((options, providers))

    def get_providers(self) -> list[str]:
        return [name for name, _ in Session.made[-1][1]] if Session.start else ["CPUExecutionProvider"]

    def get_modelmeta(self) -> Any:
        return type("Meta", (), {"custom_metadata_map": {}})

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    providers = ("Tensorrt", "CUDA", "CANN", "OpenVINO", "CoreML", "CPU")
    names = [f"{name}ExecutionProvider" for name in providers]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: names)
    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    monkeypatch.setattr(Session, "made", [])
    return Session.made


@pytest.mark.parametrize(
    ("device", "first"),
    [
        (Device("gpu", 2), ("CUDAExecutionProvider", {"device_id": "2"})),
        (Device("npu", 1), ("CANNExecutionProvider", {"device_id": "1"})),
        (Device("xpu", 1), ("OpenVINOExecutionProvider", {"device_type": "GPU.1"})),
        (Device("mps", 0), ("CoreMLExecutionProvider", {})),
    ],
)
def test_providers_know_which_device(device: Device, first: Any, sessions: list[Any], tmp_path: Path) -> None:
    OnnxRuntime(tmp_path / "g.onnx", device, Acceleration(threads=3))
    options, providers = sessions[0]
    assert providers == [first, ("CPUExecutionProvider", {})]
    assert options.intra_op_num_threads == 3


def test_tensorrt_keeps_its_engines_next_to_the_model(sessions: list[Any], tmp_path: Path) -> None:
    """F52: PaddleX's cache, precision and shapes; a folder for each file's content, so that none is stale."""
    (tmp_path / "g.onnx").write_bytes(b"weights")
    own = tmp_path / ".cache" / hashlib.sha256(b"weights").hexdigest()[:16]
    shapes = ((1, 640, 640, 3), (1, 640, 640, 3), (8, 640, 640, 3))
    options = Acceleration(backend="tensorrt", precision="fp16", shapes=shapes)
    made = OnnxRuntime(tmp_path / "g.onnx", Device("gpu", 1), options)
    providers = dict(sessions[0][1])
    assert list(providers) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers["TensorrtExecutionProvider"] == {
        "device_id": 1,
        "trt_fp16_enable": True,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(own),
        "trt_profile_min_shapes": "image:1x640x640x3",
        "trt_profile_opt_shapes": "image:1x640x640x3",
        "trt_profile_max_shapes": "image:8x640x640x3",
    }
    assert (tmp_path / ".cache").is_dir() and made.precision == "fp16"


def test_a_cache_that_can_not_be_written_is_done_without(sessions: list[Any], tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("in the way")
    OnnxRuntime(tmp_path / "g.onnx", Device("gpu", 0), Acceleration(backend="tensorrt"))
    assert dict(sessions[0][1])["TensorrtExecutionProvider"] == {"device_id": 0, "trt_fp16_enable": False}


def test_a_provider_that_does_not_start_is_an_error(
    sessions: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """B52: never the CPU under another name."""
    monkeypatch.setattr(Session, "start", False)
    with pytest.raises(DeviceError, match="device 'gpu:0' is not available: .* CUDAExecutionProvider"):
        OnnxRuntime(tmp_path / "g.onnx", Device("gpu", 0), Acceleration())


def test_tensorrt_that_is_not_built_in(graph_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: names)
    with pytest.raises(DeviceError, match="TensorRT is not available: this build of ONNX Runtime is for cpu, gpu"):
        Graph(graph_file, Device("gpu", 0), Acceleration(backend="tensorrt"))


def test_tensorrt_without_its_libraries(sessions: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The model is not to blame."""

    def session(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("state.cc:729 void RegisterTensorRTPlugins() Please install TensorRT libraries")

    monkeypatch.setattr("onnxruntime.InferenceSession", session)
    (tmp_path / "g.onnx").write_bytes(b"weights")
    with pytest.raises(DeviceError, match="TensorRT could not be started .*Please install TensorRT libraries"):
        OnnxRuntime(tmp_path / "g.onnx", Device("gpu", 0), Acceleration(backend="tensorrt"))
    with pytest.raises(ModelError, match="can't be opened"):
        OnnxRuntime(tmp_path / "g.onnx", CPU, Acceleration())


def test_first_line_is_informative() -> None:
    message = "Exception from src/a.cpp:1:\nCheck 'x' failed at src/b.cpp:2:\n  no such layer\n\n"
    assert first_line(RuntimeError(message)) == "no such layer"
    assert first_line(RuntimeError("Exception from src/a.cpp:1:")) == "Exception from src/a.cpp:1:"
    assert first_line(RuntimeError("")) == "RuntimeError"
