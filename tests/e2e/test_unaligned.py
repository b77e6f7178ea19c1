"""Weights that were trained with RoIAlign's first form, and what is trained from them, know it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures import before, tiny, tiny_rcnn
from fixtures.discs import make_discs

from maskline import catalog, models
from maskline.errors import ParameterError, WeightsError
from maskline.exporting import export
from maskline.models.families import overrides_of
from maskline.models.mask_rtdetr.network import CONFIGS as MASK_RTDETR
from maskline.models.rcnn.network import CONFIGS, MaskRCNN
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph
from maskline.training import TrainSettings, checkpoint, train
from maskline.training.augment import Augment
from maskline.weights.load import config_in_file, load_network, save_weights

NAME = "MaskRCNN-ResNet50-FPN"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, NAME, tiny_rcnn.shrunk(NAME))
    monkeypatch.setitem(catalog.MODELS, NAME, tiny_rcnn.spec(NAME))


UNALIGNED = {"aligned": False}


def aligned(path: Path, *, unaligned: bool = False) -> bool:
    network = load_network(NAME, path, overrides_of(NAME, unaligned=unaligned))
    assert isinstance(network, MaskRCNN)
    return network.config.aligned


@pytest.mark.parametrize("unaligned", [False, True])
def test_the_file_or_the_option_says_so(tmp_path: Path, unaligned: bool) -> None:
    path = tmp_path / "weights.safetensors"
    config = {"aligned": not unaligned}
    save_weights(tiny_rcnn.network(NAME).state_dict(), path, NAME, tiny_rcnn.CLASSES, config)
    assert config_in_file(path, NAME) == config
    assert aligned(path) != unaligned and not aligned(path, unaligned=True)


def test_other_models_have_nothing_to_align(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MASK_RTDETR, "Mask-RT-DETR-S", tiny.CONFIG)
    path = tmp_path / "weights.safetensors"
    save_weights(tiny.network().state_dict(), path, "Mask-RT-DETR-S", tiny.CLASSES)
    load_network("Mask-RT-DETR-S", path)
    for name in ("Mask-RT-DETR-S", "SOLOv2", "PP-YOLOE_seg-S"):
        with pytest.raises(ParameterError, match=f"{name} has no RoIAlign"):
            overrides_of(name, unaligned=True)
        with pytest.raises(ParameterError, match=f"the configuration of {name} has no 'aligned'"):
            models.build(name, overrides=UNALIGNED)
    with pytest.raises(ParameterError, match="has no 'aligned'"):
        load_network("Mask-RT-DETR-S", path, UNALIGNED)
    with pytest.raises(ParameterError, match="has no RoIAlign"):
        export("Mask-RT-DETR-S", path, tmp_path / "out", unaligned=True)


def test_a_file_that_says_what_this_version_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for config, message in (({"shifted": True}, "has no 'shifted'"), ({"aligned": "no"}, "aligned is 'no'")):
        save_weights(tiny_rcnn.network(NAME).state_dict(), path, NAME, tiny_rcnn.CLASSES, config)
        with pytest.raises(
            WeightsError, match=f"weights.safetensors was trained with another configuration .*{message}"
        ):
            load_network(NAME, path)


def test_training_hands_it_on(tmp_path: Path) -> None:
    """From a file that does not say so to a checkpoint, the run after that, and the graph."""
    data = make_discs(tmp_path / "discs", train=2, val=1, classes=tiny_rcnn.CLASSES)
    weights = tmp_path / "weights.safetensors"
    save_weights(tiny_rcnn.network(NAME).state_dict(), weights, NAME, tiny_rcnn.CLASSES)

    def run(output: str, start: Path, **changes: Any) -> Path:
        settings = TrainSettings(
            model=NAME, data=data, output=tmp_path / output, weights=str(start), epochs=1, batch_size=2,
            learning_rate=1e-4, device="cpu", workers=0, augment=asdict(Augment(flip=0, sizes=(96,))), **changes,
        )  # fmt: skip
        train(settings)
        assert checkpoint.read(tmp_path / output / "model_final").weights_config == UNALIGNED
        return tmp_path / output / "best_model"

    first = run("first", weights, unaligned=True, export=False) / "best_model.safetensors"
    assert not aligned(first)
    second = run("second", first)  # the file knows
    assert not aligned(second / "best_model.safetensors")
    assert "aligned=False" in Graph(second / "inference" / "inference.onnx", Device("cpu")).record.made_by


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings and its weights file say ``unaligned``; it ends with the weights that it ended with then."""
    monkeypatch.setitem(CONFIGS, NAME, before.config())
    data = make_discs(tmp_path / "discs", train=2, val=1, classes=tiny_rcnn.CLASSES)
    shutil.copytree(before.RUN, tmp_path / "run")
    old = tmp_path / "run" / "0"
    assert checkpoint.read(old).weights_config == config_in_file(old / "0.safetensors", NAME) == UNALIGNED
    assert not aligned(old / "0.safetensors")
    monkeypatch.chdir(tmp_path)
    train(TrainSettings(model=NAME, data=data, resume=old, epochs=2, device="cpu", workers=0, export=False))
    end = tmp_path / "run" / "model_final"
    assert checkpoint.read(end).epochs == 2 and checkpoint.read(end).weights_config == UNALIGNED
    found = load_network(NAME, end / "model_final.safetensors")
    assert found.config == replace(before.config(), aligned=False)
    state = found.state_dict()
    with np.load(before.RUN / "end.npz") as expected:
        for name in expected.files:
            np.testing.assert_allclose(state[name], expected[name], rtol=0, atol=1e-5, err_msg=name)


def test_an_exported_model_needs_no_option(tmp_path: Path) -> None:
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
    assert (
        done.returncode == 2 and "--unaligned applies only to --weights" in done.stderr and done.stderr.count("\n") == 1
    )
