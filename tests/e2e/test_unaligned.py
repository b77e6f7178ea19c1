"""Weights that were trained with RoIAlign's first form, and what is trained from them, know it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fixtures import tiny, tiny_rcnn
from fixtures.discs import make_discs

from maskline import catalog, models
from maskline.errors import ParameterError
from maskline.models.mask_rtdetr.network import CONFIGS as MASK_RTDETR
from maskline.models.rcnn.network import CONFIGS, MaskRCNN
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph
from maskline.training import TrainSettings, checkpoint, train
from maskline.training.augment import Augment
from maskline.weights.load import is_unaligned, load_network, save_weights

NAME = "MaskRCNN-ResNet50-FPN"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, NAME, tiny_rcnn.shrunk(NAME))
    monkeypatch.setitem(catalog.MODELS, NAME, tiny_rcnn.spec(NAME))


def aligned(path: Path, **options: bool) -> bool:
    network = load_network(NAME, path, **options)
    assert isinstance(network, MaskRCNN)
    return network.config.aligned


@pytest.mark.parametrize("unaligned", [False, True])
def test_a_file_says_so_or_is_told_so(tmp_path: Path, unaligned: bool) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(tiny_rcnn.network(NAME).state_dict(), path, NAME, tiny_rcnn.CLASSES, unaligned=unaligned)
    assert is_unaligned(path) == unaligned
    assert aligned(path) != unaligned and not aligned(path, unaligned=True)


def test_other_models_have_nothing_to_align(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MASK_RTDETR, "Mask-RT-DETR-S", tiny.CONFIG)
    path = tmp_path / "weights.safetensors"
    save_weights(tiny.network().state_dict(), path, "Mask-RT-DETR-S", tiny.CLASSES)
    load_network("Mask-RT-DETR-S", path)
    for name in ("Mask-RT-DETR-S", "SOLOv2", "PP-YOLOE_seg-S"):
        with pytest.raises(ParameterError, match=f"{name} has no RoIAlign"):
            models.build(name, unaligned=True)
    with pytest.raises(ParameterError, match="has no RoIAlign"):
        load_network("Mask-RT-DETR-S", path, unaligned=True)


def test_training_hands_it_on(tmp_path: Path) -> None:
    """From a file that does not say so to a checkpoint, the run after that, and the graph."""
    data = make_discs(tmp_path / "discs", train=2, val=1, classes=tiny_rcnn.CLASSES)
    weights = tmp_path / "weights.safetensors"
    save_weights(tiny_rcnn.network(NAME).state_dict(), weights, NAME, tiny_rcnn.CLASSES)

    def run(output: str, start: Path, **changes: bool) -> Path:
        settings = TrainSettings(
            model=NAME, data=data, output=tmp_path / output, weights=str(start), epochs=1, batch_size=2,
            learning_rate=1e-4, device="cpu", workers=0, augment=Augment(flip=0, sizes=(96,)), **changes,
        )  # fmt: skip
        train(settings)
        assert checkpoint.read(tmp_path / output / "model_final").settings["unaligned"]
        return tmp_path / output / "best_model"

    first = run("first", weights, unaligned=True, export=False) / "best_model.safetensors"
    assert not aligned(first)
    second = run("second", first)  # the file knows
    assert not aligned(second / "best_model.safetensors")
    assert "unaligned" in Graph(second / "inference" / "inference.onnx", Device("cpu")).record.made_by


def test_an_exported_model_need_not_be_told(tmp_path: Path) -> None:
    data = make_discs(tmp_path / "discs", train=1, val=1)
    command = [
        sys.executable,
        "-m",
        "maskline",
        "evaluate",
        str(data),
        "--unaligned",
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--unaligned is for --weights" in done.stderr and done.stderr.count("\n") == 1
