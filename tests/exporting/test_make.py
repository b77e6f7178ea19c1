"""Export: the contract, the files, and graphs that must be refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from fixtures import tiny
from fixtures.narrow import f32

from maskline.errors import ExportError, InputNotFoundError, OutputError, ParameterError, WeightsError
from maskline.exporting import ExportOptions, export, export_network, inference_yml, read_labels, verify, write_graph
from maskline.models.deployed import Deployed
from maskline.runtime.device import Device
from maskline.runtime.graph import RECORD_KEY, Graph, Raw, Record
from maskline.runtime.mask_layout import MaskLayout


def run_network(batch: np.ndarray) -> Raw:
    with torch.no_grad():
        return Raw(*(t.numpy() for t in Deployed(tiny.network(), tiny.SPEC.preprocess)(torch.from_numpy(batch))))


def random_batch(size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (size, 96, 96, 3), np.uint8)


def test_the_graph_keeps_the_contract(tiny_model_dir: Path) -> None:
    model = onnx.load(tiny_model_dir / "inference.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8 and [entry.version for entry in model.opset_import] == [18]
    assert {n.domain for n in model.graph.node} == {""}
    assert [i.name for i in model.graph.input] == ["image"]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert isinstance(dims[0], str) and dims[1:] == [96, 96, 3]
    kinds = {o.name: o.type.tensor_type.elem_type for o in model.graph.output}
    assert kinds == {"boxes": 1, "scores": 1, "labels": 7, "masks": 1}  # float32, and int64
    assert [p.key for p in model.metadata_props] == [RECORD_KEY]
    assert "site-packages" not in str(model) and str(Path.cwd()) not in str(model)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_graph_gives_the_networks_detections_at_any_batch(tiny_model_dir: Path, size: int) -> None:
    ours = Graph(tiny_model_dir / "inference.onnx", Device("cpu")).run(random_batch(size))
    theirs = run_network(random_batch(size))
    for i in range(size):
        assert not verify.compare(ours.image(i), theirs.image(i))


def test_half_precision_halves_the_file_and_keeps_the_detections(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Weights are rounded, by a two thousandth at most; what is computed with them is float32."""
    export_network(tiny.network(), tiny.SPEC, tmp_path, labels=tiny.CLASSES, options=ExportOptions(half=True))
    model, whole = (onnx.load(folder / "inference.onnx") for folder in (tmp_path, tiny_model_dir))
    onnx.checker.check_model(model, full_check=True)
    stored = {kind: sum(len(t.raw_data) for t in model.graph.initializer if t.data_type == kind) for kind in (1, 10)}
    assert stored[10] > 4 * stored[1]
    assert sum(len(t.raw_data) for t in model.graph.initializer) < 0.62 * sum(
        len(t.raw_data) for t in whole.graph.initializer
    )
    ours, theirs = (Graph(f / "inference.onnx", Device("cpu")).run(random_batch(2)) for f in (tmp_path, tiny_model_dir))
    moved = np.abs(ours.scores - theirs.scores)
    assert 0 < moved.max() < 0.05 and np.median(moved) < 0.01


def test_files_and_only_these(tiny_model_dir: Path) -> None:
    assert sorted(p.name for p in tiny_model_dir.iterdir()) == ["inference.onnx", "inference.yml"]
    config = yaml.safe_load((tiny_model_dir / "inference.yml").read_text())
    assert config["Global"]["model_name"] == "Mask-RT-DETR-S"
    assert config["label_list"] == list(tiny.CLASSES) and config["draw_threshold"] == 0.6
    assert (config["arch"], config["min_subgraph_size"], config["mask"]) == ("DETR", 3, True)
    assert [step["type"] for step in config["Preprocess"]] == ["Resize", "NormalizeImage", "Permute"]
    record = Graph(tiny_model_dir / "inference.onnx", Device("cpu")).record
    assert record.labels == tiny.CLASSES and record.preprocess == tiny.SPEC.preprocess


def test_exporting_leaves_the_network_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny.network().train()
    before = copy.deepcopy(network.state_dict())
    monkeypatch.setattr("maskline.exporting.from_network.verify_graph", lambda *_, single: None)
    export_network(network, tiny.SPEC, tmp_path, labels=tiny.CLASSES)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("what", ["class_head", "box_head", "mask_head"])
def test_a_graph_that_disagrees_is_not_written(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is made from a network one part of which is a little off."""
    real = write_graph

    def sabotaged(deployed: Deployed, record: Record, path: Path, *, half: bool, single: bool) -> None:
        deployed = copy.deepcopy(deployed)
        with torch.no_grad():
            for parameter in getattr(deployed.network.decoder, what).parameters():
                parameter.mul_(1.05)
        real(deployed, record, path, half=half, single=single)

    monkeypatch.setattr("maskline.exporting.from_network.write_graph", sabotaged)
    with pytest.raises(ExportError, match="disagrees with the network.*not written"):
        export_network(tiny.network(), tiny.SPEC, tmp_path / "new", labels=tiny.CLASSES)
    assert not (tmp_path / "new").exists()


def test_a_failed_export_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inference.onnx").write_bytes(b"old")

    def refuse(*_: object, single: bool) -> None:
        raise ExportError("no")

    monkeypatch.setattr("maskline.exporting.from_network.verify_graph", refuse)
    with pytest.raises(ExportError):
        export_network(tiny.network(), tiny.SPEC, tmp_path, labels=tiny.CLASSES)
    assert [p.name for p in tmp_path.iterdir()] == ["inference.onnx"]
    assert (tmp_path / "inference.onnx").read_bytes() == b"old"


def raw(scores: list[float], labels: list[int] | None = None) -> Raw:
    n = len(scores)
    masks = np.full((n, 8, 8), -1, np.float32)
    masks[:, 2:6, 1:7] = 1
    boxes = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
    return Raw(boxes, np.array(scores, np.float32), np.array(labels or [0] * n), masks)


def rows(raw: Raw, index: Any) -> Raw:
    return Raw(*(array[index] for array in raw))


def test_compare_matches_rows_in_any_order() -> None:
    a = raw([0.9, 0.8, 0.7, 0.1])
    b = rows(a, [1, 0, 2, 3])
    assert not verify.compare(a, b)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r._replace(scores=r.scores + f32([1e-3, 0, 0, 0])),
        lambda r: r._replace(labels=r.labels + np.array([0, 1, 0, 0])),
        lambda r: r._replace(boxes=r.boxes + np.float32(0.1)),
        lambda r: r._replace(masks=np.roll(r.masks, 1, axis=2)),
        lambda r: r._replace(masks=r.masks[:, :4]),
    ],
    ids=["score", "label", "box", "mask", "shape"],
)
def test_compare_sees_every_kind_of_difference(change: Callable[[Raw], Raw]) -> None:
    a = raw([0.9, 0.8, 0.7, 0.1])
    assert verify.compare(a, a) == ""
    assert verify.compare(a, change(a)) != ""


def test_a_few_wrong_detections_are_not_rounding() -> None:
    """Two rows with other boxes and masks, from a network that double precision does not move."""
    theirs = raw([0.9, 0.8, 0.7, 0.1])
    ours = theirs._replace(boxes=theirs.boxes.copy(), masks=theirs.masks.copy())
    ours.boxes[:2] = [0, 0, 640, 640]
    ours.masks[:2] *= -1
    near = theirs._replace(boxes=theirs.boxes + np.float32(0.1))
    answers = [verify.Answer(rows(one, None)) for one in (ours, near, theirs)]
    assert verify.compare(ours, theirs)
    assert not verify._only_rounding(answers[0], answers[2], lambda: answers[2])
    assert verify._only_rounding(answers[1], answers[2], lambda: answers[2])


def test_what_layers_give_is_compared_by_their_deviation() -> None:
    found = rows(raw([0.9]), None)
    layer = np.random.default_rng(0).normal(-5, 0.1, (1, 3, 8, 8)).astype(np.float32)
    theirs, same, other = (verify.Answer(found, {"head.classes/0": layer + d}) for d in (0, 1e-5, 1e-2))
    assert not verify._differing_numbers(same, theirs)
    assert verify._differing_numbers(other, theirs) == "192 of 192 numbers of head.classes/0 differ"
    assert not verify._only_rounding(other, theirs, lambda: theirs)
    assert verify._only_rounding(other, theirs, lambda: other)


def test_a_row_at_the_cut_may_be_another() -> None:
    a = raw([0.9, 0.8, 0.5])
    b = a._replace(labels=a.labels + np.array([0, 0, 1]))
    assert verify.compare(a, b) == ""


def test_weights_of_other_classes_need_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ParameterError, match="2 labels given, the weights have 3 classes"):
        export_network(tiny.network(), tiny.SPEC, tmp_path, labels=["a", "b"])
    (tmp_path / "names.txt").write_text("cat\n\n  dog \nbird\n", encoding="utf-8")
    assert read_labels(tmp_path / "names.txt") == ["cat", "dog", "bird"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ParameterError, match="no class names"):
        read_labels(tmp_path / "empty.txt")
    with pytest.raises(InputNotFoundError):
        read_labels(tmp_path / "none.txt")


def test_a_threshold_must_be_a_score(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="threshold is 7: expected a number from 0 to 1"):
        export_network(tiny.network(), tiny.SPEC, tmp_path, labels=tiny.CLASSES, options=ExportOptions(threshold=7))


def test_what_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="is a file; name a folder"):
        export_network(tiny.network(), tiny.SPEC, tmp_path / "file", labels=tiny.CLASSES)


def test_weights_that_do_not_fit_write_nothing(tmp_path: Path, pdparams: Path) -> None:
    with pytest.raises(WeightsError):
        export("Mask-RT-DETR-M", pdparams, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_yml_of_a_model_that_keeps_the_ratio() -> None:
    from maskline import catalog

    spec = catalog.get("SOLOv2")
    record = Record(spec.name, ("a",), spec.preprocess, 0.5, MaskLayout(), "test")
    config = yaml.safe_load(inference_yml(spec, record))
    assert config["use_dynamic_shape"] is True
    assert [s["type"] for s in config["Preprocess"]] == ["NormalizeImage", "Resize", "Permute", "PadStride"]
    assert Record.from_json(record.to_json(), Path("x")) == replace(record)
