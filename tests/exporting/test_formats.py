"""What an export is for: other runtimes' forms, fixed shapes, 8 bits, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml
from fixtures import sets, tiny, tiny_rcnn, tiny_solov2
from fixtures.narrow import imread

from maskline import catalog, create_model, hub
from maskline.errors import (
    ExportError,
    InputError,
    InputNotFoundError,
    MasklineError,
    MissingDependencyError,
    ModelError,
    ParameterError,
    UnknownNameError,
)
from maskline.exporting import ExportOptions, export, export_network, formats, quantise, samples, verify
from maskline.exporting import cost as costs
from maskline.exporting.cost import Agreement, Cost, Figures, agreement, shared_ious
from maskline.instances import Instances
from maskline.models.network import Network
from maskline.runtime.backend import GRAPH_FILES
from maskline.runtime.device import Device
from maskline.runtime.graph import RECORD_KEY, Graph

ASSETS = hub.EMBEDDED.parent
PHOTO = ASSETS / "fruit.jpg"
CPU = Device("cpu")


def graph_of(folder: Path, form: str = "onnx") -> Graph:
    return Graph(folder / GRAPH_FILES[form], CPU)


def shape_of(folder: Path) -> list[int | str]:
    model = onnx.load(folder / "inference.onnx")
    return [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images without annotations."""
    folder = tmp_path_factory.mktemp("photos")
    whole = imread(PHOTO)
    for i in range(7):
        cv2.imwrite(str(folder / f"{i}.png"), np.roll(whole, 60 * i, axis=1)[:200, 20 * i : 20 * i + 300])
    return folder


@pytest.mark.parametrize("form", ["ort", "openvino"])
def test_other_forms_give_the_same_and_describe_themselves(form: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """F54: ORT's form for phones, and OpenVINO's: the record travels in the file, the YAML next to it."""
    export_network(tiny.network(), tiny.SPEC, tmp_path, labels=tiny.CLASSES, options=ExportOptions(form, threshold=0.6))
    expected = {"inference.yml", GRAPH_FILES[form]} | ({"inference.bin"} if form == "openvino" else set())
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert yaml.safe_load((tmp_path / "inference.yml").read_text())["mode"] == form
    ours, theirs = graph_of(tmp_path, form), graph_of(tiny_model_dir)
    assert ours.record == theirs.record
    batch = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), np.uint8)
    for i in range(3):
        assert not verify.compare(ours.run(batch).image(i), theirs.run(batch).image(i))
    found = [
        len(next(iter(create_model(model_dir=d, device="cpu").predict(PHOTO)))) for d in (tmp_path, tiny_model_dir)
    ]
    assert found[0] == found[1]


def test_a_form_that_disagrees_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is of the file that is handed out, not only of the graph it was made from."""
    real = formats.convert_graph

    def sabotaged(source: Path, *rest: object, half: bool) -> None:
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.ndim == 4:
                tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.03), tensor.name))
        onnx.save(model, source)
        real(source, *rest, half=half)  # type: ignore[arg-type]

    monkeypatch.setattr("maskline.exporting.make.convert_graph", sabotaged)
    with pytest.raises(ExportError, match="disagrees with the network"):
        export_network(tiny.network(), tiny.SPEC, tmp_path / "new", labels=tiny.CLASSES, options=ExportOptions("ort"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("family", ["rcnn", "solov2"])
def test_a_fixed_size_where_the_model_leaves_it_free(family: str, tmp_path: Path) -> None:
    """F54: a square that any image is scaled into, lying or upright; its boxes stay within the image."""
    target = ExportOptions(batch="1", size=(160, 160))
    network: Network
    if family == "rcnn":
        row, network = catalog.get("MaskRCNN-ResNet50-FPN"), tiny_rcnn.network("MaskRCNN-ResNet50-FPN")
    else:
        row, network = catalog.get("SOLOv2"), tiny_solov2.network()
    export_network(network, row, tmp_path, labels=[f"c{i}" for i in range(network.num_classes)], options=target)
    assert shape_of(tmp_path) == [1, 160, 160, 3]
    image = imread(PHOTO)
    model = create_model(model_dir=tmp_path, device="cpu", threshold=0.05)
    images = [image, image.transpose(1, 0, 2).copy(), image[:50]]
    for photo, result in zip(images, model.predict(images, batch_size=3), strict=True):
        instances = result.instances
        height, width = photo.shape[:2]
        assert (instances.boxes >= 0).all() and (instances.boxes <= [width, height, width, height]).all()
    pre = graph_of(tmp_path).record.preprocess
    pixels, frame = pre.apply(image)
    assert pixels.shape == (160, 160, 3) and frame.resized == (120, 160) and not pixels[120:].any()


def test_sizes_that_a_model_cannot_have() -> None:
    own, free = catalog.get("Mask-RT-DETR-L").preprocess, catalog.get("SOLOv2").preprocess
    assert ExportOptions(size=(640, 640)).preprocess(own, "it") == own
    with pytest.raises(ParameterError, match="size is 320x320: it has a fixed input size of 640x640"):
        ExportOptions(size=(320, 320)).preprocess(own, "it")
    with pytest.raises(ParameterError, match=r"size is 480x640: .* so a fixed size must be square, such as 640x640"):
        ExportOptions(size=(480, 640)).preprocess(free, "it")
    assert ExportOptions(size=(512, 512)).preprocess(free, "it") == replace(free, height=512, width=512, pad_stride=512)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "640"}, "size is '640': expected HEIGHTxWIDTH in pixels, such as 640x640"),
        ({"size": 640}, "size is 640: expected height and width"),
        ({"size": (640,)}, "expected height and width"),
        ({"size": ("640", "640")}, "a side of size is '640': expected an integer"),
        ({"format": None}, "format is None: expected a string"),
        ({"size": (16, 640)}, "size is 16x640: expected sides from 32 to 4096 pixels"),
        ({"batch": 4}, "unknown batch '4': known: dynamic, 1"),
        ({"batch": "many"}, "unknown batch 'many'"),
        ({"half": True, "int8": "x"}, "half and int8 are mutually exclusive"),
        ({"half": True, "format": "ort"}, "half is not supported for ORT files"),
    ],
)
def test_invalid_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        ExportOptions(**options)  # type: ignore[arg-type]


def test_bad_options_are_reported_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown format 'onx': did you mean 'onnx'"):
        export("Mask-RT-DETR-S", tmp_path / "none.pdparams", tmp_path, format="onx")
    with pytest.raises(ParameterError, match="size is 100x100"):
        export("Mask-RT-DETR-S", tmp_path / "none.pdparams", tmp_path, size="100x100")


def test_bad_options_are_reported_before_anything_is_downloaded(tmp_path: Path) -> None:
    """The tests are offline: a download would be an error of its own."""
    with pytest.raises(MasklineError, match="no folder"):
        hub.make_model_dir("Mask-RT-DETR-S", tmp_path, options=ExportOptions(int8=tmp_path / "none"))


def test_the_hub_passes_all_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def record(spec: catalog.Model, weights: Path, output: Path, **options: object) -> Path:
        given.update(options)
        return output

    monkeypatch.setattr("maskline.exporting.make.export_weights", record)
    wanted = ExportOptions("ort", batch="1", size=(640, 640), int8=photos)
    hub.make_model_dir("PP-YOLOE_seg-N", tmp_path, options=wanted)
    assert given["options"] == wanted


def test_openvino_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'maskline\[openvino\]'"):
        formats.to_openvino(hub.EMBEDDED / "inference.onnx", graph_of(hub.EMBEDDED).record, tmp_path / "x.xml")


def test_what_onnx_runtime_cannot_open_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="ONNX Runtime does not support the graph"):
        formats.to_ort(tmp_path / "a.onnx", tmp_path / "a.ort")


def test_8_bits_and_their_cost(
    photos: Path, tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """F54: every convolution in 8 bits with standard operators; what it costs is measured, stored and reported."""
    (tmp_path / "inference.ort").write_bytes(b"of an earlier export")
    with caplog.at_level(logging.INFO, "maskline"):
        export_network(tiny.network(), tiny.SPEC, tmp_path, labels=tiny.CLASSES, options=ExportOptions(int8=photos))
    assert "also has inference.ort" in caplog.text
    cost = json.loads((tmp_path / "int8.json").read_text())
    assert cost["calibrated_on"] == 5 and cost["measured_on"] == 2 and cost["float32"]["ap"] is None
    assert cost["int8"]["megabytes"] == pytest.approx((tmp_path / "inference.onnx").stat().st_size / 1e6)
    assert cost["int8"]["milliseconds"] > 0 and cost["agreement"]["images"] == 2
    assert "calibrated on 5 images" in caplog.text and "size, MB" in caplog.text
    assert costs.read(tmp_path).to_json() == (tmp_path / "int8.json").read_text()
    again = tmp_path / "again"
    shutil.copytree(tmp_path, again, ignore=shutil.ignore_patterns("*.ort"))
    export_network(tiny.network(), tiny.SPEC, again, labels=tiny.CLASSES)
    assert not (again / "int8.json").exists()

    model = onnx.load(tmp_path / "inference.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""} and [e.domain for e in model.opset_import] == [""]
    assert [p.key for p in model.metadata_props] == [RECORD_KEY]
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions and all(made_by[node.input[1]] == "DequantizeLinear" for node in convolutions)

    ours, theirs = graph_of(tmp_path), graph_of(tiny_model_dir)
    assert ours.record == replace(theirs.record, threshold=0.5, made_by=f"{theirs.record.made_by}, int8")
    image = ours.record.preprocess.apply(imread(photos / "0.png"))[0][None]
    moved = np.abs(ours.run(image).scores - theirs.run(image).scores)
    assert 0 < np.median(moved) < 0.2
    formats.convert_graph(tmp_path / "inference.onnx", ours.record, tmp_path / "inference.ort")
    assert not verify.compare(graph_of(tmp_path, "ort").run(image).image(0), ours.run(image).image(0))


def test_with_a_data_set_ap_is_measured_on_its_val_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "data"
    sets.make(data, train=4)
    found = samples.find(data)
    assert found.annotated is not None and len(found.calibration) == 4
    assert not set(found.calibration) & {found.annotated.path(image) for image in found.annotated.images}
    content = sets.load(data, "train")
    content["images"].append(sets.load(data, "val")["images"][0] | {"id": 99})
    sets.save(data, "train", content)  # an image of val in train too
    assert samples.find(data).calibration == found.calibration


def test_every_fifth_image_is_held_out(tmp_path: Path) -> None:
    for i in range(23):
        shutil.copy(ASSETS / "nuclei.png", tmp_path / f"{i:02}.png")
    found = samples.find(tmp_path)
    assert [path.stem for path in found.held_out] == ["01", "06", "11", "16", "21"]
    assert len(found.calibration) == 18 and found.annotated is None


def test_images_for_8_bits_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputNotFoundError, match="no folder .*int8 needs a data set, or a folder"):
        samples.find(tmp_path / "none")
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(InputError, match="has 0 images to calibrate with and 0 others to compare on"):
        samples.find(tmp_path)
    assert "skipped: " in caplog.text
    shutil.copy(ASSETS / "nuclei.png", tmp_path / "two.png")
    with pytest.raises(InputError, match="has 0 images to calibrate with and 1 other"):
        samples.find(tmp_path)
    graph = hub.EMBEDDED / "inference.onnx"
    with pytest.raises(InputError, match="none of the images to calibrate with can be read"):
        quantise.quantise(graph, Graph(graph, CPU).record, iter(()), tmp_path / "small.onnx")


def test_the_table_of_a_cost_and_its_warning(tmp_path: Path) -> None:
    before, same = Figures(9.0, 57.0, 0.4857, 0.7055), Agreement(25, 1108, 1112, 1100, 0.957)
    cost = Cost(before, Figures(2.64, 49.0, 0.4776, 0.6982), same, 50, 67)
    assert "mask AP           0.4857    0.4776   -0.0081" in cost.summary() and not cost.warning
    assert cost.summary().endswith("calibrated on 50 images, none of those measured on; AP on 67")
    worse = replace(cost, int8=replace(cost.int8, ap=0.45))
    assert worse.warning.startswith("int8 changes 0.036 of mask AP: calibrate with")
    plain = Cost(Figures(9.0, 57.0), Figures(2.6, 49.0), Agreement(5, 10, 8, 8, None), 20, 5)
    assert plain.warning.startswith("int8 changes 20% of the instances") and "AP" not in plain.summary()
    assert "the cost of int8 is unknown" in replace(plain, agreement=Agreement(5, 0, 0, 0, None)).warning
    with pytest.raises(ModelError, match=r"int8\.json can't be read"):
        costs.read(tmp_path)


def test_a_model_agrees_with_itself() -> None:
    graph = hub.EMBEDDED / "inference.onnx"
    found = agreement(graph, graph, [ASSETS / "nuclei.png"])
    assert found.float32 == found.int8 == found.shared > 20 and found.mean_iou == 1 and found.images == 1


def test_instances_are_shared_once_and_within_a_class() -> None:
    def instances(boxes: list[list[float]], labels: list[int]) -> Instances:
        masks = tuple(np.ones((int(b[3] - b[1]), int(b[2] - b[0])), np.uint8) for b in boxes)
        n = len(boxes)
        array = np.array(boxes, np.float32).reshape(-1, 4)
        return Instances(
            array, np.ones(n, np.float32), np.array(labels, np.int64), masks, np.zeros(n, np.float32), (100, 100)
        )

    a = instances([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 1])
    assert shared_ious(a, a) == [1, 1]
    assert shared_ious(a, instances([[0, 0, 10, 10], [0, 0, 10, 9]], [0, 0])) == [1]
    assert shared_ious(a, instances([[0, 0, 10, 10]], [1])) == [] == shared_ious(a, instances([], []))
    assert shared_ious(a, instances([[0, 0, 10, 6], [52, 50, 62, 60]], [0, 1])) == pytest.approx([2 / 3, 0.6])


def test_costs_written_before_images_were_called_so_are_read(tmp_path: Path) -> None:
    plain = Figures(9.0, 57.0, 0.4857, 0.7055)
    cost = Cost(plain, plain, Agreement(25, 1108, 1112, 1100, 0.957), 50, 67)
    (tmp_path / "int8.json").write_text(cost.to_json().replace('"images"', '"pictures"'))
    assert costs.read(tmp_path) == cost
