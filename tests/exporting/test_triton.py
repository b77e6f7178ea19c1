"""A model repository for Triton: its files, its configuration, and its model.py run as Triton's Python backend runs it.

The backend is stood in for by a module of four names. The documents say what was run in a real server.
"""

from __future__ import annotations

import base64
import errno
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fixtures import tiny

from maskline import create_model, hub
from maskline.cli import cli
from maskline.errors import OutputError, UnknownNameError
from maskline.exporting import ExportOptions, export_network, triton
from maskline.exporting.cost import Agreement, Cost, Figures
from maskline.masks import rle_encode
from maskline.serve import kserve

PHOTO = hub.EMBEDDED.parent / "fruit.jpg"
INSTANCE = {"model_instance_kind": "CPU", "model_instance_device_id": "0", "model_repository": "elsewhere"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    return export_network(
        tiny.network(), tiny.SPEC, folder, labels=tiny.CLASSES, options=ExportOptions("Triton", threshold=0.6)
    )


class Tensor(SimpleNamespace):
    """As the backend's: a name and an array of objects."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        super().__init__(name=name, values=values)

    def as_numpy(self) -> np.ndarray:
        return self.values


class InferenceResponse(SimpleNamespace):
    """As the backend's: tensors, or an error."""

    def __init__(self, output_tensors: list[Tensor] | None = None, error: object = None) -> None:
        super().__init__(output_tensors=output_tensors, error=error)


@pytest.fixture
def code(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The repository's model.py, imported as the backend does."""
    backend = ModuleType("triton_python_backend_utils")
    backend.Tensor, backend.InferenceResponse = Tensor, InferenceResponse  # type: ignore[attr-defined]
    backend.TritonError = str  # type: ignore[attr-defined]
    backend.get_input_tensor_by_name = lambda request, name: request[name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    spec = importlib.util.spec_from_file_location("model", repository / "instance-segmentation" / "1" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(module)
    yield module


def opened(code: ModuleType) -> Any:
    model = code.TritonPythonModel()
    model.initialize(INSTANCE)
    return model


def request_of(*texts: bytes) -> dict[str, Tensor]:
    return {"input": Tensor("input", np.array(texts, dtype=np.object_).reshape(-1, 1))}


def image_request(**fields: object) -> bytes:
    return json.dumps({"image": base64.b64encode(PHOTO.read_bytes()).decode()} | fields).encode()


def answer_of(response: InferenceResponse) -> dict[str, Any]:
    assert response.error is None and [tensor.name for tensor in response.output_tensors] == ["output"]
    values = response.output_tensors[0].values
    assert values.shape == (1, 1) and values.dtype == object and isinstance(values[0, 0], bytes)
    return json.loads(values[0, 0])


def test_files_and_the_model_in_them(repository: Path, tiny_model_dir: Path) -> None:
    """F53: a repository of Triton's layout around a model directory like any other."""
    files = sorted(str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file())
    names = ["1/inference.onnx", "1/inference.yml", "1/model.py", "config.pbtxt"]
    assert files == [f"instance-segmentation/{name}" for name in names]
    inner = repository / "instance-segmentation" / "1"
    assert (inner / "inference.yml").read_text() == (tiny_model_dir / "inference.yml").read_text()
    ours, theirs = (next(create_model(model_dir=d, device="cpu").predict(PHOTO)) for d in (inner, tiny_model_dir))
    assert len(ours.instances) and np.array_equal(ours.instances.boxes, theirs.instances.boxes)


def parse_pbtxt(text: str) -> dict[str, Any]:
    """Protobuf's text format, as far as a configuration goes. A key that comes twice is an error."""
    tokens = re.findall(r'"[^"]*"|[\w.-]+|[{}\[\]:,]', re.sub(r"#.*", "", text))

    def value() -> Any:
        token = tokens.pop(0)
        if token == "{":
            return fields("}")
        if token == "[":
            items = [value()]
            while tokens.pop(0) == ",":
                items.append(value())
            return items
        return json.loads(token) if token[0] in '"0123456789' else token

    def fields(end: str | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while tokens and tokens[0] != end:
            key = tokens.pop(0)
            if tokens[0] == ":":
                tokens.pop(0)
            assert key not in found
            found[key] = value()
        if end is not None:
            assert tokens.pop(0) == end
        return found

    return fields(None)


def test_the_configuration(repository: Path) -> None:
    """F53: names, datatypes and dimensions of PaddleX's, and those of the routes of our own service."""
    folder = repository / "instance-segmentation"
    config = parse_pbtxt((folder / "config.pbtxt").read_text())
    assert config == {
        "name": "instance-segmentation",
        "backend": "python",
        "max_batch_size": 1,
        "input": [{"name": "input", "data_type": "TYPE_STRING", "dims": [1]}],
        "output": [{"name": "output", "data_type": "TYPE_STRING", "dims": [1]}],
        "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
    }
    assert (kserve.MODEL, kserve.VERSION) == (triton.MODEL, triton.VERSION) == (folder.name, "1")
    assert (kserve.INPUT, kserve.OUTPUT) == ("input", "output")


def test_a_request_is_answered_with_what_the_model_finds(code: ModuleType, repository: Path) -> None:
    """F53: JSON text in, JSON text out, the same as by `predict`."""
    one = request_of(image_request(logId="mine", visualize=False))
    responses = opened(code).execute([one, request_of(image_request())])
    result = next(create_model(model_dir=repository / "instance-segmentation" / "1", device="cpu").predict(PHOTO))
    found, answers = result.instances, [answer_of(response) for response in responses]
    assert [answer["errorCode"] for answer in answers] == [0, 0] and answers[0]["logId"] == "mine"
    assert answers[0]["result"]["image"] is None and answers[1]["result"]["image"].startswith("/9j/")
    for answer in answers:
        instances = answer["result"]["instances"]
        assert len(instances) == len(found) > 0
        assert [i["bbox"] for i in instances] == found.boxes.tolist()
        assert [i["score"] for i in instances] == found.scores.tolist()
        assert [i["categoryName"] for i in instances] == [tiny.CLASSES[label] for label in found.labels]
        assert [i["mask"]["rleResult"] for i in instances] == [rle_encode(mask) for mask in found.masks]


def test_several_texts_in_a_request(code: ModuleType) -> None:
    """Should the configuration allow them."""
    (response,) = opened(code).execute([request_of(image_request(visualize=False, logId="a"), b"no JSON")])
    values = response.output_tensors[0].values
    assert values.shape == (2, 1)
    assert [json.loads(value)["errorCode"] for value in values.ravel()] == [0, 422]


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[]", b"{}", b'{"image": "%"}', b'{"image": "aGVsbG8="}', b'{"image": "http://a/b"}']
)
def test_bad_requests_are_reported_in_the_answer(code: ModuleType, text: bytes) -> None:
    """F53: nothing is raised, so that Triton has nothing to put in words of its own."""
    (response,) = opened(code).execute([request_of(text)])
    answer = answer_of(response)
    assert answer["errorCode"] == 422 and json.loads(answer["errorMsg"])[0]["msg"]


def test_a_fault_of_ours_shows_no_trace(
    code: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = opened(code)
    monkeypatch.setattr(code, "answer", lambda *_, **__: [][0])
    (response,) = model.execute([request_of(image_request())])
    assert response.error == "internal error, see the server's log" and response.output_tensors is None
    assert "IndexError" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "number", "device"), [("CPU", "0", "cpu"), ("GPU", "2", "gpu:2")])
def test_the_model_is_opened_where_triton_says(
    code: ModuleType, repository: Path, monkeypatch: pytest.MonkeyPatch, kind: str, number: str, device: str
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(code, "create_model", given.update)
    code.TritonPythonModel().initialize(INSTANCE | {"model_instance_kind": kind, "model_instance_device_id": number})
    assert given == {"model_dir": repository / "instance-segmentation" / "1", "device": device}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A model directory to be put in a repository."""
    folder = tmp_path / "made"
    folder.mkdir()
    for name in ("inference.onnx", "inference.yml", "int8.json"):
        (folder / name).write_text("new")
    return folder


def test_a_later_export_leaves_what_is_not_its_own(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repository" / "instance-segmentation"
    triton.replace_model(tmp_path / "repository", made)
    (folder / "config.pbtxt").write_text("edited")
    (folder / "1" / "model.py").write_text("old")
    (folder / "1" / "notes").write_text("mine")
    (folder / "2").mkdir()
    triton.replace_model(tmp_path / "repository", made)
    assert (folder / "config.pbtxt").read_text() == "edited" and (folder / "2").is_dir()
    assert "TritonPythonModel" in (folder / "1" / "model.py").read_text()
    assert {path.name for path in (folder / "1").iterdir()} == {
        *("inference.onnx", "inference.yml", "int8.json"),
        *("model.py", "notes"),
    }


@pytest.mark.parametrize("there", [False, True])
def test_all_or_none(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """A disk that gets full at the last file: what was there stays, and nothing new."""
    repository, copy = tmp_path / "repository", shutil.copyfile
    if there:
        triton.replace_model(repository, made)
        (made / "inference.yml").write_text("newer")

    def full(source: Path, target: Path) -> None:
        if Path(source).name == "inference.onnx":
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="can't be written to: No space left on device"):
        triton.replace_model(repository, made)
    files = {path.name: path.read_text() for path in repository.rglob("*") if path.is_file()}
    assert len(files) == (5 if there else 0) and files.get("inference.yml") == ("new" if there else None)


def test_a_place_that_is_taken_is_reported_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "instance-segmentation").write_text("a file")
    with pytest.raises(OutputError, match="instance-segmentation is a file"):
        export_network(tiny.network(), tiny.SPEC, tmp_path, options=ExportOptions("triton"))


def test_what_triton_stands_for() -> None:
    target = ExportOptions("triton", half=True, batch="1", size=(640, 640))
    assert (target.graph, target.file, target.half) == ("onnx", "inference.onnx", True)
    assert target.model_dir(Path("out")) == Path("out/instance-segmentation/1")
    assert ExportOptions("ort").model_dir(Path("out")) == Path("out")
    with pytest.raises(UnknownNameError, match="did you mean 'triton'.*known: onnx, ort, openvino, triton"):
        ExportOptions("tritn")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F53: `maskline export --format triton` says where what is."""
    folder = tmp_path / "instance-segmentation" / "1"
    folder.mkdir(parents=True)
    cost = Cost(Figures(9.0, 57.0), Figures(2.6, 49.0), Agreement(5, 10, 8, 8, None), 20, 5)
    (folder / "int8.json").write_text(cost.to_json())
    monkeypatch.setattr(hub, "make_model_dir", lambda *_, **__: tmp_path)
    options = ["export", "SOLOv2", "--output", str(tmp_path), "--format", "TRITON", "--int8", "images"]
    done = CliRunner().invoke(cli, options, catch_exceptions=False)
    assert done.exit_code == 0 and "calibrated on 20 images" in done.output
    assert f"{folder}: inference.onnx and inference.yml, measured against float32" in done.output
    assert f"{tmp_path}: a model repository for `tritonserver --model-repository`" in done.output
