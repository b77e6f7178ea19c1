"""SOLOv2, tiny, the whole way: trained on from a file, evaluated, exported, predicting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures import tiny_solov2
from fixtures.discs import make_discs

import maskline
from maskline import catalog, create_model
from maskline.inputs import read_image
from maskline.models.deployed import Deployed
from maskline.models.solov2.network import CONFIGS, SOLOv2
from maskline.runtime.device import Device
from maskline.runtime.graph import Graph
from maskline.runtime.postprocess import to_instances
from maskline.runtime.predictor import Predictor
from maskline.training import TrainSettings, checkpoint, train
from maskline.training.augment import Augment
from maskline.weights.load import load_network, save_weights

NAME = "SOLOv2"
PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"
SIZES = ((96, 128), (300, 200), (64, 300), (97, 131), (97, 131))  # height and width of images to predict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two steps, an evaluation and an export."""
    folder = tmp_path_factory.mktemp("solov2")
    data = make_discs(folder / "discs", train=4, val=2, classes=tiny_solov2.NAMES)
    weights = folder / "weights.safetensors"
    save_weights(tiny_solov2.network().state_dict(), weights, NAME, tiny_solov2.NAMES)
    settings = TrainSettings(
        model=NAME, data=data, output=folder / "run", weights=str(weights), epochs=1, batch_size=2, learning_rate=1e-4,
        device="cpu", workers=0, log_interval=1, augment=asdict(Augment(flip=0.5)),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalog.MODELS, NAME, tiny_solov2.SPEC)
        patch.setitem(CONFIGS, NAME, tiny_solov2.CONFIG)
        train(settings)
        yield settings.output


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return create_model(model_dir=run / "best_model" / "inference", threshold=0.0, device="cpu")


def photos() -> list[np.ndarray]:
    """Parts of a photo, resized: (H, W, 3) uint8 BGR each."""
    photo = read_image(PHOTO)
    return [cv2.resize(photo[40 * i :, 60 * i :], size[::-1]) for i, size in enumerate(SIZES)]


def test_a_run_learns_evaluates_and_exports(run: Path) -> None:
    progress = checkpoint.read(run / "model_final")
    assert progress.steps == 2 and 0 <= progress.history[0]["AP"] <= 1
    log = (run / "train.log").read_text()
    assert "loss_ins" in log and "loss_cate" in log and "re-initialised" not in log


def test_results_have_the_keys_of_all_models(predictor: Predictor) -> None:
    """B05."""
    result = next(iter(predictor.predict(photos()[0])))
    assert len(result["boxes"]) == len(result["masks"]) >= 3
    for number, box in enumerate(result["boxes"]):
        assert set(box) == {"cls_id", "label", "score", "coordinate"}
        mask = result.instances.masks[number]
        assert all(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))  # the box is the mask's own


def test_a_batch_gives_what_its_images_give_one_by_one(predictor: Predictor) -> None:
    images = photos()
    alone = [next(iter(predictor.predict(image))).instances for image in images]
    assert sum(len(found) for found in alone) >= 20
    together = [result.instances for result in predictor.predict(images, batch_size=5)]
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-6)
        for a, b in zip(ours.masks, theirs.masks, strict=True):
            np.testing.assert_array_equal(a, b)


def test_results_are_the_network_s(run: Path, predictor: Predictor) -> None:
    record = Graph(run / "best_model" / "inference" / "inference.onnx", Device("cpu")).record
    assert record.preprocess.has_free_size and record.mask_layout == SOLOv2.mask_layout
    deployed = Deployed(load_network(NAME, run / "best_model" / "best_model.safetensors"), record.preprocess)
    images = photos()
    for image, result in zip(images, predictor.predict(images), strict=True):
        pixels, frame = record.preprocess.apply(image)
        assert pixels.dtype == np.float32
        raw = deployed.run(pixels[None]).image(0)
        theirs = to_instances(raw, frame, pixels.shape[:2], np.zeros(3, np.float32), mask_layout=SOLOv2.mask_layout)
        np.testing.assert_array_equal(result.instances.labels, theirs.labels)
        np.testing.assert_allclose(result.instances.boxes, theirs.boxes, rtol=0, atol=0.02)


def test_nothing_found(predictor: Predictor) -> None:
    results = list(predictor.predict(photos(), threshold=1.0, batch_size=2))
    assert not any(len(result.instances) for result in results)
