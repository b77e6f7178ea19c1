"""Mask R-CNNs, tiny, the whole way: trained on from a file, evaluated, exported, predicting.

One for each kind of head; other backbones are trained and exported by `models/test_every_model.py`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fixtures import parts, tiny_rcnn
from fixtures.discs import make_discs, without_val
from safetensors.torch import load_file

from maskline import catalog, create_model
from maskline.exporting import verify
from maskline.models.deployed import Deployed
from maskline.models.rcnn.network import CONFIGS, MaskRCNN
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph
from maskline.runtime.postprocess import to_instances
from maskline.runtime.predictor import Predictor
from maskline.training import TrainResult, TrainSettings, checkpoint, train
from maskline.training.augment import Augment
from maskline.weights.load import load_network, save_weights

ROW = catalog.get("MaskRCNN-ResNet50-FPN")
KINDS = ("MaskRCNN-ResNet50", "MaskRCNN-ResNet50-FPN", "Cascade-MaskRCNN-ResNet50-FPN")
SIZES = ((96, 128), (300, 200), (97, 131), (97, 131), (97, 131), (64, 300))  # height and width of images to predict


@dataclass(frozen=True)
class Trained:
    """A finished run of a tiny network."""

    name: str
    output: Path
    result: TrainResult
    start: dict[str, torch.Tensor]  # the weights it started from
    log: str
    network: MaskRCNN  # the best

    @property
    def graph(self) -> Path:
        return self.output / "best_model" / "inference"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of the tiny networks' three classes."""
    return make_discs(tmp_path_factory.mktemp("three"), train=4, val=2, classes=tiny_rcnn.CLASSES)


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest) -> Iterator[str]:
    """A row of the catalog whose network is the tiny one."""
    name = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalog.MODELS, name, tiny_rcnn.spec(name))
        patch.setitem(CONFIGS, name, tiny_rcnn.shrunk(name))
        yield name


@pytest.fixture(scope="module")
def weights(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights that give detections of all kinds."""
    path = tmp_path_factory.mktemp("weights") / f"{tiny}.safetensors"
    save_weights(tiny_rcnn.network(tiny).state_dict(), path, tiny, tiny_rcnn.CLASSES)
    return path


def settings(name: str, data: Path, output: Path, start: Path, **changes: Any) -> TrainSettings:
    """Two steps that change little."""
    return TrainSettings(
        model=name, data=data, output=output, weights=str(start), epochs=1, batch_size=2, learning_rate=1e-5,
        device="cpu", workers=0, log_interval=1, augment=asdict(Augment(flip=0.5, sizes=(96, 128))), **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny: str, weights: Path, three: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two steps, an evaluation and an export."""
    output = tmp_path_factory.mktemp("run") / "out"
    result = train(settings(tiny, three, output, weights))
    network = load_network(tiny, output / "best_model" / "best_model.safetensors")
    assert isinstance(network, MaskRCNN)
    return Trained(tiny, output, result, load_file(weights), (output / "train.log").read_text(), network)


@pytest.fixture(scope="module")
def predictor(trained: Trained) -> Predictor:
    return create_model(model_dir=trained.graph, threshold=0.0, device="cpu")


def photos() -> list[np.ndarray]:
    """(H, W, 3) uint8 BGR each, of what the tiny networks are made for."""
    mean, std = (np.array(values)[:, None, None] for values in (ROW.preprocess.mean, ROW.preprocess.std))
    found = []
    for i, size in enumerate(SIZES):
        pixels = (parts.image(*size, seed=i)[0].numpy() * std + mean) * 255
        found.append(np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)[..., ::-1]))
    return found


# Training


def test_a_run_learns_evaluates_and_exports(trained: Trained) -> None:
    progress = checkpoint.read(trained.output / "model_final")
    assert progress.steps == 2 and len(progress.history) == 1 and 0 <= progress.history[0]["AP"] <= 1
    assert trained.result.done and trained.result.model_dir == trained.graph
    assert "re-initialised" not in trained.log and "Epoch: [0] [2/2]" in trained.log
    assert "loss_mask" in trained.log and ("loss_bbox_cls_stage2" in trained.log) == trained.name.startswith("Cascade")


def test_all_has_learned_that_should_and_nothing_else(trained: Trained) -> None:
    """The stem, the first stage and every norm with its statistics are the file's, to the bit."""
    after = load_file(trained.output / "model_final" / "model_final.safetensors")
    assert after.keys() == trained.start.keys()
    still = {name for name, tensor in after.items() if torch.equal(tensor, trained.start[name])}
    expected = {n for n in after if n.startswith(("backbone.stem.", "backbone.stages.0.")) or ".norm." in n}
    assert expected <= still and len(still - expected) < 0.2 * len(after.keys() - expected)


def test_training_on_with_other_classes(
    tiny: str, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Scores, with one row more, boxes, with four rows for each, and masks; boxes of a cascade are for all classes."""
    classes = ("one", "other", "third", "fourth", "fifth")
    data = without_val(make_discs(tmp_path / "discs", train=2, classes=classes), tmp_path / "data")
    with caplog.at_level(logging.INFO, "maskline"):
        train(settings(tiny, data, tmp_path / "run", weights, export=False))
    stages = range(3 if tiny.startswith("Cascade") else 1)
    assert "classes whose weights are kept, by name: none" in caplog.messages
    assert f"classes not in the weights, which are re-initialised: {', '.join(classes)}" in caplog.messages
    network = load_network(tiny, tmp_path / "run" / "model_final" / "model_final.safetensors")
    assert isinstance(network, MaskRCNN)
    head = parts.box_heads(network)[0]
    assert network.num_classes == len(classes) and len(head.score.bias) == len(classes) + 1
    assert len(head.delta.bias) == 4 * (len(classes) if len(stages) == 1 else 1)


# The graph


def test_the_graph_has_free_sizes_and_a_record(trained: Trained) -> None:
    record = Graph(trained.graph / "inference.onnx", Device("cpu")).record
    assert (
        record.model == trained.name
        and record.labels == tiny_rcnn.CLASSES
        and record.mask_layout == MaskRCNN.mask_layout
    )
    assert record.preprocess == tiny_rcnn.spec(trained.name).preprocess and record.preprocess.has_free_size


@pytest.mark.parametrize(("height", "width", "batch"), [(33, 47, 1), (128, 160, 3), (97, 200, 2), (200, 75, 1)])
def test_the_graph_gives_the_network_s_detections(trained: Trained, height: int, width: int, batch: int) -> None:
    """At sizes that it was neither made nor verified with."""
    graph = Graph(trained.graph / "inference.onnx", Device("cpu"))
    images = np.stack([cv2.resize(image, (width, height)) for image in photos()[:batch]])
    ours, theirs = graph.run(images), Deployed(trained.network, graph.record.preprocess).run(images)
    for i in range(batch):
        assert not verify.compare(ours.image(i), theirs.image(i))
        assert (theirs.scores[i] > 0).sum() >= 10
        ring = ours.masks[i].copy()
        ring[:, 1:-1, 1:-1] = -0.5
        assert (ring == -0.5).all()


def test_a_graph_that_finds_nothing(trained: Trained, predictor: Predictor) -> None:
    """Above the highest threshold."""
    results = list(predictor.predict(photos(), threshold=1.0, batch_size=2))
    assert len(results) == len(SIZES) and not any(len(result.instances) for result in results)
    assert all(result.json["res"]["boxes"] == [] for result in results)


# Predicting


def test_a_batch_gives_what_its_images_give_one_by_one(predictor: Predictor) -> None:
    """F24, B22: neighbours of one size run together; results are equal to the last bit of their masks."""
    images = photos()
    alone = [next(iter(predictor.predict(image))).instances for image in images]
    assert all(len(found) >= 10 for found in alone)
    for size in (2, 6):
        together = [result.instances for result in predictor.predict(images, batch_size=size)]
        for ours, theirs in zip(together, alone, strict=True):
            np.testing.assert_array_equal(ours.labels, theirs.labels)
            np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-6)
            np.testing.assert_allclose(ours.boxes, theirs.boxes, rtol=0, atol=1e-3)
            for a, b in zip(ours.masks, theirs.masks, strict=True):
                np.testing.assert_array_equal(a, b)


def test_results_are_the_network_s(trained: Trained, predictor: Predictor) -> None:
    """The same instances as from PyTorch, at the image's size."""
    preprocess = tiny_rcnn.spec(trained.name).preprocess
    deployed = Deployed(copy.deepcopy(trained.network), preprocess)
    images = photos()
    for image, result in zip(images, predictor.predict(images, batch_size=3), strict=True):
        pixels, frame = preprocess.apply(image)
        assert min(pixels.shape[:2]) <= 128 and max(pixels.shape[:2]) <= 200
        raw = deployed.run(pixels[None]).image(0)
        theirs = to_instances(raw, frame, pixels.shape[:2], np.zeros(3, np.float32), mask_layout=MaskRCNN.mask_layout)
        ours = result.instances
        assert ours.size == theirs.size == image.shape[:2]
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-4)
        np.testing.assert_allclose(ours.boxes, theirs.boxes, rtol=0, atol=0.02)
        assert (ours.boxes >= 0).all() and (ours.boxes <= np.tile(image.shape[1::-1], 2)).all()
        for a, b in zip(ours.masks, theirs.masks, strict=True):
            assert a.shape == b.shape and (a != b).sum() <= max(4, 0.01 * a.size)
