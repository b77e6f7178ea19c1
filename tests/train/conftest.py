"""Small runs: our small network, on pictures of a few bright discs, at 64 pixels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskline.masks import rle_encode
from maskline.train.augment import Augment
from maskline.train.settings import Settings

SIDE = 64


def make_discs(root: Path, train: int = 8, val: int = 2, classes: tuple[str, ...] = ("disc", "ring")) -> Path:
    """A data set in our layout; the last picture of each split has no objects."""
    for split, number, seed in (("train", train, 0), ("val", val, 100)):
        images, annotations = [], []
        for i in range(number):
            rng = np.random.default_rng(seed + i)
            image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
            images.append({"id": i + 1, "file_name": f"{split}{i}.png", "width": SIDE, "height": SIDE})
            for _ in range(0 if i + 1 == number else 3):
                kind = int(rng.integers(len(classes)))
                mask = np.zeros((SIDE, SIDE), np.uint8)
                centre = tuple(int(v) for v in rng.integers(12, SIDE - 12, 2))
                cv2.circle(mask, centre, int(rng.integers(6, 11)), 1, -1 if kind == 0 else 3)
                image[mask > 0] = (40, 200, 230) if kind == 0 else (220, 90, 60)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": kind + 1,
                        "segmentation": {"size": [SIDE, SIDE], "counts": rle_encode(mask)},
                        "iscrowd": 0,
                    }
                )
            (root / "images").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "images" / f"{split}{i}.png"), image)
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instance_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture
def settings(discs: Path, tmp_path: Path) -> Settings:
    """A run of 3 epochs with 2 steps each, in this process alone."""
    return Settings(
        model="PP-YOLOE_seg-N",
        data=discs,
        output=tmp_path / "run",
        epochs=3,
        batch_size=4,
        weights="scratch",
        device="cpu",
        workers=0,
        log_interval=1,
        export=False,
        augment=Augment(distort=0.5, flip=0.5, jitter=(0.8, 1.2), sizes=(SIDE,)),
    )


def without_val(root: Path, target: Path) -> Path:
    """The data set with a train split only."""
    content = json.loads((root / "annotations" / "instance_train.json").read_text())
    (target / "annotations").mkdir(parents=True)
    (target / "images").symlink_to(root / "images")
    (target / "annotations" / "instance_train.json").write_text(json.dumps(content))
    return target


def unevaluated(settings: Settings, folder: Path) -> Settings:
    """The same run without a val split: quicker."""
    return replace(settings, data=without_val(settings.data, folder))
