"""The main job at full size: PaddleDetection's weights -> export -> masks on a photo, as a user would type it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.narrow import imread

import maskline
from maskline.exporting import verify
from maskline.models.deployed import Deployed
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph, Raw
from maskline.weights.load import load_network

PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"


@pytest.fixture(scope="module")
def model_dir(pdparams: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "S"
    command = [sys.executable, "-m", "maskline", "export", "Mask-RT-DETR-S", "--verify"]
    done = subprocess.run([*command, "--weights", pdparams, "--output", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "checked against the network" in done.stderr
    return folder


@pytest.mark.slow
def test_from_weights_to_images(model_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "maskline", "predict", "--threshold", "0.3"]
    done = subprocess.run(
        [*command, PHOTO, "--model-dir", model_dir, "--save-path", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "fruit_res.json").read_text())
    assert 1 <= len(saved["boxes"]) == len(saved["masks"]) <= 100
    for box, mask in zip(saved["boxes"], saved["masks"], strict=True):
        x1, y1, x2, y2 = box["coordinate"]
        assert 0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 480
        assert abs(len(mask) - (y2 - y1)) <= 1.01 and abs(len(mask[0]) - (x2 - x1)) <= 1.01
    assert imread(tmp_path / "fruit_res.jpg").shape == (480, 640, 3)


@pytest.mark.slow
def test_the_graph_is_the_network_on_the_recorded_images(model_dir: Path, pdparams: Path) -> None:
    from fixtures import det_weights

    graph, network = Graph(model_dir / "inference.onnx", Device("cpu")), load_network("Mask-RT-DETR-S", pdparams)
    preprocess = graph.record.preprocess
    batch = np.stack(
        [preprocess.apply(det_weights.image(h, w)[..., ::-1].copy())[0] for h, w in ((480, 640), (427, 640))]
    )
    ours = graph.run(batch)
    with torch.no_grad():
        theirs = Raw(*(t.numpy() for t in Deployed(network, preprocess)(torch.from_numpy(batch))))
    for i in range(2):
        assert verify.compare(ours.image(i), theirs.image(i)) == ""
