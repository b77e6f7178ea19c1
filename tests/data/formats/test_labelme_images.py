"""LabelMe files that hold their image: it is checked in them, and written by whatever copies images."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fixtures.readings import SHARED, read, save_json

from maskline.data.check.run import check
from maskline.data.convert import convert, convert_in_place
from maskline.data.fix import fix
from maskline.data.reading import load_splits
from maskline.errors import DatasetError

WIDTH, HEIGHT = 40, 30


def embedded(root: Path, data: bytes, **more: Any) -> Path:
    """A data set of one image, which only its annotation file holds."""
    content = {
        "version": "5.5.0",
        "flags": {},
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        "imagePath": "gone/a.png",
        "shapes": [{"label": "cat", "points": [[5, 5], [15, 5], [15, 15]], "shape_type": "polygon", "flags": {}}],
        "imageData": base64.b64encode(data).decode(),
        **more,
    }
    save_json(root / "a.json", content)
    return root


def image_data(seed: int = 3) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "labelme", "cvat"])
def test_an_embedded_image_is_written_by_convert(tmp_path: Path, to: str) -> None:
    root = embedded(tmp_path / "old", image_data())
    convert(root, tmp_path / "new", to)
    reading = read(tmp_path / "new")
    assert reading.errors == []
    (dataset,) = reading.splits.values()
    assert dataset.path(dataset.images[0]).read_bytes() == image_data()
    assert len(dataset.annotations) == 1
    assert sorted(path.name for path in root.rglob("*")) == ["a.json"]


def test_embedded_images_of_one_name_are_written_in_place(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        embedded(tmp_path / name, image_data(seed))
    splits = convert_in_place(tmp_path, "labelme")
    written = {dataset.path(image) for dataset in splits.values() for image in dataset.images}
    assert all(path.is_relative_to(tmp_path / "images") for path in written)
    assert {path.read_bytes() for path in written} == {image_data(0), image_data(1)}


def test_an_embedded_image_is_checked_and_written_by_fix(tmp_path: Path) -> None:
    found = check(embedded(tmp_path / "old", image_data()))
    assert [fault.code for fault in found.faults] == ["image-embedded"]
    fixed = fix(found, tmp_path / "new")
    assert [done.outcome for done in fixed.done] == ["fixed"]
    (dataset,) = read(tmp_path / "new").splits.values()
    assert dataset.path(dataset.images[0]).read_bytes() == image_data()


def test_an_embedded_image_has_to_be_written_before_training(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="maskline convert"):
        load_splits(embedded(tmp_path, image_data()))


def test_an_embedded_image_of_another_size_is_an_error(tmp_path: Path) -> None:
    found = check(embedded(tmp_path / "old", image_data(), imageWidth=WIDTH + 1))
    assert [fault.code for fault in found.errors] == ["image-unreadable"]
    assert fix(found, tmp_path / "new").number("left out") == 2


@pytest.mark.parametrize("data", [b"", b"x", image_data()[:20]])
def test_image_data_that_is_not_an_image(tmp_path: Path, data: bytes) -> None:
    reading = read(embedded(tmp_path, data))
    assert [fault.code for fault in reading.faults] == ["image-missing"]


def test_an_embedded_image_gets_a_suffix_that_is_read(tmp_path: Path) -> None:
    root = embedded(tmp_path, image_data(), imagePath="a.gif")
    assert [image.file_name for image in read(root).splits["all"].images] == ["a.gif.png"]


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_the_case(tmp_path: Path) -> None:
    root = SHARED / "cases" / "wild" / "labelme_imagedata"
    convert(root, tmp_path / "new", "coco")
    (dataset,) = read(tmp_path / "new").splits.values()
    data = base64.b64decode(json.loads((root / "a.json").read_text(encoding="utf-8"))["imageData"])
    assert dataset.path(dataset.images[0]).read_bytes() == data
    assert len(dataset.annotations) == 1
