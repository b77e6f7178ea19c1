"""The graphs of official models that are shipped: up to date, and filled as torch would."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import scripts, stand_in

from maskline import catalog
from maskline.errors import MissingDependencyError, ParameterError, WeightsError
from maskline.exporting import ExportOptions, export, shipped
from maskline.exporting.graph import fused
from maskline.runtime.device import CPU
from maskline.runtime.graph import Graph
from maskline.weights.load import load_network, save_weights

graphs = scripts.load("graphs")
every_official_model = pytest.mark.parametrize("name", graphs.OFFICIAL)
PPYOLOE = "PP-YOLOE_seg-S"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in.write(PPYOLOE, tmp_path_factory.mktemp("weights") / f"{PPYOLOE}.pdparams")


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskline.exporting.make.find_spec", lambda _: None)
    monkeypatch.setattr("maskline.exporting.shipped.find_spec", lambda _: None)


def test_every_official_model_has_one() -> None:
    assert len(graphs.OFFICIAL) == 15
    assert {path.stem for path in shipped.GRAPHS.iterdir()} == set(graphs.OFFICIAL)
    assert sum(path.stat().st_size for path in shipped.GRAPHS.iterdir()) < 2e6


@every_official_model
def test_it_is_up_to_date(name: str) -> None:
    assert graphs.is_current(name), "run scripts/graphs"


@every_official_model
def test_its_weights_are_those_that_torch_merges(name: str) -> None:
    """To the bit, for weights of all magnitudes."""
    network = graphs.network(name)
    with torch.no_grad():
        for i, (key, value) in enumerate(network.state_dict().items()):
            if value.is_floating_point():
                numbers = (torch.arange(value.numel()) * (i + 7)).remainder(1009).float() / 1009
                value.copy_((numbers + 0.01 if key.endswith("running_var") else numbers - 0.5).view(value.shape))
    theirs = fused(network).state_dict()
    graph = shipped.ShippedGraph(shipped.GRAPHS / f"{name}.zip")
    ours = graph.fused({key: value.numpy() for key, value in network.state_dict().items()})
    made = {name for step in graph.template.steps for name in step.results}
    needed = {name.removeprefix("network.") for name in graph.template.weights if name not in made}
    needed |= {step.source.removeprefix("network.") for step in graph.template.steps if step.source not in made}
    assert needed <= theirs.keys()
    for key in needed:
        np.testing.assert_array_equal(ours[key], theirs[key].numpy(), err_msg=key)


def test_a_change_of_the_code_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(text: str) -> list[str]:
        path = tmp_path / "source.py"
        path.write_text(text)
        return list(graphs.code(path))

    one = code('"""Doc."""\n\ndef f(x):\n    """Doc."""\n    return f(x, "a")  # why\n')
    assert code('"""Other."""\ndef f(x):\n    return f(\n        x, "a")\n') == one
    assert code('"""Doc."""\n\ndef f(x):\n    """Doc."""\n    return f(x, "b")  # why\n') != one
    before = graphs.fingerprint(PPYOLOE)
    assert graphs.fingerprint(PPYOLOE) == before
    monkeypatch.setattr(graphs, "code", lambda path: [path.name])
    assert graphs.fingerprint(PPYOLOE) != before


def test_an_export_without_torch_is_that_of_the_network(weights: Path, tmp_path: Path, without_torch: None) -> None:
    export(PPYOLOE, weights, tmp_path, threshold=0.4)
    record = Graph(tmp_path / "inference.onnx", CPU).record
    assert record.labels == catalog.COCO_CLASSES and record.threshold == 0.4
    assert record.preprocess == catalog.get(PPYOLOE).preprocess
    assert "torch" in record.made_by and "onnxscript" in record.made_by
    with torch.no_grad():
        assert record.mask_layout == load_network(PPYOLOE, weights).mask_layout


@pytest.mark.parametrize("options", [{"batch": 1}, {"unaligned": True}])
def test_what_has_to_be_traced_needs_torch(options: dict[str, object], tmp_path: Path, without_torch: None) -> None:
    name = "MaskRCNN-ResNet50-FPN"
    path = stand_in.write(name, tmp_path / "weights.pdparams")
    with pytest.raises(MissingDependencyError, match=r"pip install 'maskline\[train\]'"):
        export(name, path, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model_are_named_without_torch(weights: Path, tmp_path: Path, without_torch: None) -> None:
    with pytest.raises(WeightsError, match="does not fit Mask-RT-DETR-S: .* missing"):
        export("Mask-RT-DETR-S", weights, tmp_path / "out")
    path = stand_in.write("Mask-RT-DETR-S", tmp_path / "s.pdparams")
    with pytest.raises(WeightsError, match="these are the weights of Mask-RT-DETR-S"):
        export("Mask-RT-DETR-L", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_numbers_of_classes_are_traced(weights: Path, tmp_path: Path, without_torch: None) -> None:
    arrays = stand_in.state(PPYOLOE)
    few = {k: v[:3] if v.ndim and v.shape[0] == 80 else v for k, v in arrays.items()}
    (tmp_path / "few.pdparams").write_bytes(pickle.dumps(few, protocol=4))
    with pytest.raises(MissingDependencyError, match="with these weights needs torch"):
        export(PPYOLOE, tmp_path / "few.pdparams", tmp_path / "out")


def test_our_own_files_are_traced(weights: Path, tmp_path: Path) -> None:
    network = load_network(PPYOLOE, weights)
    save_weights(network.state_dict(), tmp_path / "w.safetensors", PPYOLOE, catalog.COCO_CLASSES)
    assert shipped.source(catalog.get(PPYOLOE), tmp_path / "w.safetensors", ExportOptions()) is None


def test_half_precision_without_torch(weights: Path, tmp_path: Path, without_torch: None) -> None:
    export(PPYOLOE, weights, tmp_path / "half", half=True)
    export(PPYOLOE, weights, tmp_path / "full")
    half, full = (tmp_path / name / "inference.onnx" for name in ("half", "full"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    Graph(half, CPU)


def test_labels_must_fit(weights: Path, tmp_path: Path, without_torch: None) -> None:
    with pytest.raises(ParameterError, match="2 labels given, the weights have 80 classes"):
        export(PPYOLOE, weights, tmp_path, labels=("a", "b"))
