"""Cityscapes, written by hand as its scripts define the values of a pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fixtures.readings import CASES, assert_same_in_coco, codes, masks, read, save_image
from PIL import Image

from maskline.data import reading as readings

WIDTH, HEIGHT = 12, 10
STEM = "aachen_000000_000019"


def instance_ids() -> np.ndarray:
    """Two cars, a person, a group of persons, a caravan; the rest is road (7)."""
    values = np.full((HEIGHT, WIDTH), 7, np.uint16)
    values[0:3, 0:3] = 26000
    values[0:3, 4:6] = 26001
    values[2, 4] = 7
    values[4:6, 0:2] = 24000
    values[8, :] = 24
    values[6, 6:9] = 29000
    return values


def save_map(root: Path, values: np.ndarray, kind: str = "gtFine_instanceIds", split: str = "train") -> None:
    path = root / kind.partition("_")[0] / split / "aachen" / f"{STEM}_{kind}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def make(root: Path, split: str = "train") -> Path:
    save_image(root / "leftImg8bit" / split / "aachen" / f"{STEM}_leftImg8bit.png", WIDTH, HEIGHT)
    save_map(root, instance_ids(), split=split)
    return root


def test_instances_groups_and_what_is_not_counted(tmp_path: Path) -> None:
    reading = read(make(tmp_path))
    assert reading.format == "cityscapes"
    found = masks(reading, "train")[f"{STEM}_leftImg8bit.png"]
    assert [name for name, _ in found] == ["person", "person", "car", "car"]
    for (_, mask), value in zip(found, (24, 24000, 26000, 26001), strict=True):
        assert (mask == (instance_ids() == value)).all()
    assert [annotation.crowd for annotation in reading.splits["train"].annotations] == [True, False, False, False]
    names = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert reading.splits["train"].names == names
    assert [(fault.code, fault.lost) for fault in reading.faults] == [("shape-ignored", 1)]
    assert "caravan" in reading.faults[0].what


def test_train_ids(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "gtFine" / "train" / "aachen" / f"{STEM}_gtFine_instanceIds.png").unlink()
    values = np.full((HEIGHT, WIDTH), 255, np.uint16)
    values[1:3, 1:3] = 11000
    values[5, 5:] = 13
    values[7, :] = 0
    values[9, 9] = 18003
    save_map(root, values, "gtFine_instanceTrainIds")
    found = masks(read(root), "train")[f"{STEM}_leftImg8bit.png"]
    assert [name for name, _ in found] == ["car", "person", "bicycle"]
    assert (found[1][1] == (values == 11000)).all()


def test_the_finer_map_counts_and_the_others_are_reported(tmp_path: Path) -> None:
    root = make(tmp_path)
    save_map(root, instance_ids(), "gtFine_instanceTrainIds")
    save_map(root, np.full((HEIGHT, WIDTH), 26000, np.uint16), "gtCoarse_instanceIds")
    reading = read(root)
    assert len(reading.splits["train"].annotations) == 4
    assert codes(reading) == ["shape-ignored", "file-repeated"]
    assert "2 maps" in reading.faults[1].what


def test_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        make(tmp_path, split)
    reading = read(tmp_path)
    for split, dataset in reading.splits.items():
        (image,) = dataset.images
        assert dataset.path(image) == tmp_path / "leftImg8bit" / split / "aachen" / f"{STEM}_leftImg8bit.png"
    assert list(reading.splits) == ["train", "val", "test"]


def test_only_the_folder_of_maps_and_images_elsewhere(tmp_path: Path) -> None:
    root = make(tmp_path / "a")
    (root / "leftImg8bit").rename(tmp_path / "elsewhere")
    reading = readings.read_dataset(root / "gtFine", images=tmp_path / "elsewhere")
    dataset = reading.splits["train"]
    assert dataset.path(dataset.images[0]).is_file()


@pytest.mark.parametrize("damage", ["no png", "in color"])
def test_a_map_that_can_not_be_read(tmp_path: Path, damage: str) -> None:
    root = make(tmp_path)
    path = root / "gtFine" / "train" / "aachen" / f"{STEM}_gtFine_instanceIds.png"
    if damage == "no png":
        path.write_bytes(path.read_bytes()[:60])
    else:
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path)
    reading = read(root)
    assert "rle-broken" in codes(reading)
    assert reading.splits["train"].images == ()
    assert reading.listed["train"].images == 1


def test_to_coco(tmp_path: Path) -> None:
    assert_same_in_coco(make(tmp_path / "set"), tmp_path / "coco")


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")
def test_the_case() -> None:
    reading = read(CASES / "cityscapes")
    found = {s: [name for image in masks(reading, s).values() for name, _ in image] for s in reading.splits}
    assert found == {"train": ["person"], "val": [], "test": ["truck", "truck", "train"]}
    assert [(fault.code, fault.split, fault.lost) for fault in reading.faults] == [("shape-ignored", "val", 1)]
