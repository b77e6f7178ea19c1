"""Model files and directories: what is opened, and what is refused with one clear line."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from fixtures import before, tiny

from maskline import create_model
from maskline.errors import InputNotFoundError, ModelError
from maskline.runtime.device import Device
from maskline.runtime.graph import RECORD_KEY, Graph, Record
from maskline.runtime.mask_layout import MaskLayout
from maskline.runtime.model_dir import open_model_dir

CPU = Device("cpu")


@pytest.fixture
def model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def edit_record(path: Path, **changes: object) -> None:
    model = onnx.load(path)
    values = json.loads(model.metadata_props[0].value) | changes
    model.metadata_props[0].value = json.dumps(values)
    onnx.save(model, path)


def test_damaged_files(model_dir: Path) -> None:
    graph = model_dir / "inference.onnx"
    whole = graph.read_bytes()
    for damaged in (b"", b"not a graph", whole[:1000], whole[: len(whole) // 2]):
        graph.write_bytes(damaged)
        with pytest.raises(ModelError, match="inference.onnx can't be opened .*export the model again") as caught:
            Graph(graph, CPU)
        assert "\n" not in str(caught.value)


def test_a_file_newer_than_the_runtime(model_dir: Path) -> None:
    """It is the runtime that has to change, not the file."""
    model = onnx.load(model_dir / "inference.onnx")
    model.ir_version = 99
    (model_dir / "inference.onnx").write_bytes(model.SerializeToString())
    message = (
        rf"inference.onnx can't be opened: this ONNX Runtime \({onnxruntime.__version__}\) is too old: pip install -U"
    )
    with pytest.raises(ModelError, match=message) as caught:
        Graph(model_dir / "inference.onnx", CPU)
    assert "\n" not in str(caught.value) and "again" not in str(caught.value)


def test_a_foreign_graph(tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("x", 1, [1])
    y = onnx.helper.make_tensor_value_info("y", 1, [1])
    body = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "foreign.onnx"
    onnx.save(onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(ModelError, match="not a maskline model"):
        Graph(path, CPU)
    model = onnx.load(path)
    record = Record("M", ("a",), tiny.SPEC.preprocess, 0.5, MaskLayout(), "me")
    model.metadata_props.add(key=RECORD_KEY, value=record.to_json())
    onnx.save(model, path)
    with pytest.raises(ModelError, match="has inputs and outputs"):
        Graph(path, CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "made by a newer maskline"),
        ({"labels": None}, "damaged record"),
        ({"preprocess": {"height": 3}}, "expected the keys"),
        ({"threshold": "high"}, "damaged record"),
        ({"threshold": 7}, "damaged record"),
        ({"mask_layout": None, "version": 2}, "damaged record"),
        ({"mask_layout": {"over": "box"}}, "expected the keys over, boxes_from_masks, beyond_boxes, via_input"),
        ({"mask_layout": MaskLayout().to_dict() | {"over": "image"}}, "expected input or box"),
        ({"mask_layout": MaskLayout().to_dict() | {"via_input": 1}}, "expected true or false"),
        ({"mask_layout": MaskLayout().to_dict() | {"over": "box"}}, "masks over their boxes"),
        ({"mask_layout": MaskLayout().to_dict() | {"via_input": True}}, "can't extend beyond their boxes"),
    ],
)
def test_damaged_records(model_dir: Path, changes: dict[str, object], message: str) -> None:
    edit_record(model_dir / "inference.onnx", **changes)
    with pytest.raises(ModelError, match=message):
        Graph(model_dir / "inference.onnx", CPU)


OVER: tuple[Literal["input", "box"], ...] = ("input", "box")
LAYOUTS = [
    MaskLayout(over, from_masks, beyond, via_input)
    for over, from_masks in itertools.product(OVER, (False, True))
    for beyond, via_input in ((True, False), (False, True), (False, False))
    if over == "input" or not (beyond or via_input)
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_record_keeps_how_masks_lie(layout: MaskLayout) -> None:
    """And versions of maskline that don't know the key say that they are too old."""
    record = Record("M", ("a",), tiny.SPEC.preprocess, 0.5, layout, "me")
    assert Record.from_json(record.to_json(), Path("m.onnx")) == record
    assert json.loads(record.to_json())["version"] == 3


def test_an_old_record_without_a_known_frame(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = onnx.load(before.GRAPHS / "image.onnx")
    onnx.save(model, path)
    edit_record(path, mask_frame="boxes")
    with pytest.raises(ModelError, match="expected one of image, within, twice, box"):
        Graph(path, CPU)


@pytest.mark.parametrize("grow", [False, True])
@pytest.mark.parametrize("frame", before.FRAMES)
def test_graphs_of_earlier_versions_predict_as_they_did(frame: str, grow: bool) -> None:
    """Opened, and their outputs read, by what their records called ``mask_frame``."""
    model, image = create_model(model_dir=before.GRAPHS / f"{frame}.onnx", device="cpu"), before.image()
    (result,) = model.predict(image, grow_boxes=grow)
    found, expected = result.instances, before.expected(frame, grow)
    assert len(found) == len(expected["scores"]) == 4
    for name in ("boxes", "scores", "labels", "outside"):
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(found.full_masks(), expected["masks"])


def test_a_failing_run_is_reported(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"failed on an input of shape \(1, 5, 5, 3\)"):
        Graph(tiny_model_dir / "inference.onnx", CPU).run(np.zeros((1, 5, 5, 3), np.uint8))


def test_directories(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(InputNotFoundError, match="no model directory .*none: `maskline export MODEL --output .*none`"):
        open_model_dir(tmp_path / "none")
    (tmp_path / "paddle").mkdir()
    with pytest.raises(
        ModelError, match=r"has none of inference.onnx, inference.ort, inference.xml: export the weights"
    ):
        open_model_dir(tmp_path / "paddle")
    (tmp_path / "paddle" / "inference.pdiparams").write_bytes(b"")
    with pytest.raises(ModelError, match="inference.pdiparams is a Paddle program, which only Paddle runs"):
        open_model_dir(tmp_path / "paddle")
    assert open_model_dir(model_dir / "inference.onnx").labels is None
    (model_dir / "inference.yml").unlink()
    assert open_model_dir(model_dir).threshold is None


@pytest.fixture
def training(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with ``out put``, what a training leaves there."""
    best = tmp_path / "out put" / "best_model"
    shutil.copytree(model_dir, best / "inference")
    (best / "best_model.safetensors").write_bytes(b"weights")
    (tmp_path / "out put" / "model_final").mkdir()
    (tmp_path / "out put" / "model_final" / "model_final.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    return best


BEST = "out put/best_model"


@pytest.mark.parametrize(
    "given",
    ["out put", BEST, f"{BEST}/inference", f"{BEST}/best_model.safetensors", f"{BEST}/best_model.pdparams",
     f"./{BEST}/inference/inference.onnx"],
)  # fmt: skip
def test_what_a_training_leaves_stands_for_its_export(given: str, training: Path) -> None:
    """F69: whatever of it is named, as in the documents ("path of the fine-tuned weights")."""
    assert open_model_dir(Path(given)).graph_path.resolve() == training / "inference" / "inference.onnx"


def test_weights_named_within_their_folder(training: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(training)
    assert open_model_dir(Path("best_model.pdparams")).graph_path == Path("inference/inference.onnx")


EXPORT = f"maskline export SOLOv2 --weights '{BEST}/best_model.safetensors' --output '{BEST}/inference'"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("out put", f"has none of .*: export the weights with `{EXPORT}`"),
        (BEST, f"export the weights with `{EXPORT}`"),
        (f"{BEST}/best_model.pdparams", f"is a weights file, not an exported model: `{EXPORT}`"),
        (f"{BEST}/best_model.safetensors", f"is a weights file, not an exported model: `{EXPORT}`"),
        (
            "out put/model_final/model_final.safetensors",
            "`maskline export SOLOv2 --weights 'out put/model_final/model_final.safetensors' "
            "--output 'out put/model_final/inference'`",
        ),
        ("v1.2.pdparams", "no file v1.2.pdparams, and no export of it: expected a folder .*best_model/inference"),
    ],
)
def test_weights_without_an_export_name_the_command_that_makes_it(given: str, message: str, training: Path) -> None:
    """An export is only taken for that of other weights where a training has put both."""
    shutil.rmtree(training / "inference")
    with pytest.raises((ModelError, InputNotFoundError), match=message):
        open_model_dir(Path(given), "SOLOv2")


def test_weights_next_to_the_export_of_others(training: Path) -> None:
    (training / "mine.pdparams").write_bytes(b"weights")
    with pytest.raises(ModelError, match="mine.pdparams is a weights file, not an exported model"):
        open_model_dir(training / "mine.pdparams")


def test_the_yaml_next_to_the_graph_wins(model_dir: Path) -> None:
    path = model_dir / "inference.yml"
    config = yaml.safe_load(path.read_text())
    config |= {"label_list": ["x", "y", "z"], "draw_threshold": 0.25}
    path.write_text(yaml.safe_dump(config))
    opened = open_model_dir(model_dir)
    assert opened.labels == ("x", "y", "z") and opened.threshold == 0.25
    record = Graph(opened.graph_path, CPU).record
    opened.check(record)
    config["label_list"] = ["x"]
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ModelError, match="lists 1 label, the model has 3 classes"):
        open_model_dir(model_dir).check(record)
    path.write_text("{broken")
    with pytest.raises(ModelError, match="not readable YAML"):
        open_model_dir(model_dir)
    path.write_text("- a list")
    with pytest.raises(ModelError, match="holds list"):
        open_model_dir(model_dir)


def test_another_model_than_asked_for(model_dir: Path) -> None:
    record = Graph(model_dir / "inference.onnx", CPU).record
    with pytest.raises(ModelError, match="holds Mask-RT-DETR-S, not Mask-RT-DETR-L"):
        open_model_dir(model_dir, "Mask-RT-DETR-L").check(record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draw_threshold": 2}, "draw_threshold is 2: expected a number from 0 to 1"),
        ({"draw_threshold": "0.5"}, "draw_threshold is '0.5'"),
        ({"draw_threshold": True}, "draw_threshold is True"),
        ({"label_list": "cat"}, "label_list must be a list of strings"),
        ({"label_list": [None, "a", "b"]}, "must be a list of strings"),
    ],
)
def test_a_yaml_edited_wrongly_is_reported(model_dir: Path, changes: dict[str, object], message: str) -> None:
    path = model_dir / "inference.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    with pytest.raises(ModelError, match=f"inference.yml.*{message}"):
        open_model_dir(model_dir)
